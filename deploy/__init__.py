"""What starts real parts (Kafka, Ceph, PostgreSQL, Orthanc) on one machine."""
