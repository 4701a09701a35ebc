"""Streamlit pages for clinicians and administrators."""
