"""Apache Kafka, one KRaft node; its jars come by Maven into the user's cache, once."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from deploy import process
from deploy.part import Part

POM = Path(__file__).parent / "kafka-pom.xml"
VERSION = "4.1.1"
CLUSTER_ID = "ZWRnZXJhZC1rYWZrYS0wMQ"
JAVA = ("java", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto")
"""Small and soon warm: a broker for one machine, not for measuring Kafka."""
CONFIGURATION = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners={listeners},CONTROLLER://127.0.0.1:{controller}
advertised.listeners={listeners}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
sasl.enabled.mechanisms=PLAIN
listener.name.sasl_plaintext.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_edgerad="edgerad-secret";
log.dirs={data}
num.partitions=4
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.segment.bytes=16777216
log.cleaner.dedupe.buffer.size=16777216
broker.heartbeat.interval.ms=500
broker.session.timeout.ms=3000
"""


def jars() -> Path:
    """Return the folder of the jars in the user's cache; `fetch` fills it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return cache / "edgerad" / f"kafka-{VERSION}"


def fetch() -> Path:
    """Bring the jars by Maven unless they are there."""
    folder = jars()
    if not (folder / f"kafka_2.13-{VERSION}.jar").exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=folder.parent))  # nobody sees half of the jars
        copy = ["dependency:copy-dependencies", f"-DoutputDirectory={aside}"]
        try:
            process.run(["mvn", "-q", "-B", "-f", str(POM), *copy], timeout=600)
            aside.chmod(0o755)
            shutil.rmtree(folder, ignore_errors=True)
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


class Kafka(Part):
    """A broker; also speaks SASL/PLAIN (user edgerad, password edgerad-secret) on a second port."""

    programs = ("kafka",)

    def endpoints(self) -> dict[str, str]:
        """Return the bootstrap servers of both listeners."""
        return {"kafka": f"127.0.0.1:{self.port()}", "kafka_sasl": f"127.0.0.1:{self.port('sasl')}"}

    @property
    def bootstrap(self) -> str:
        """HOST:PORT of the plain listener."""
        return self.endpoints()["kafka"]

    def _start(self) -> None:
        """Format the log folder if it is new, start the broker, wait until it answers."""
        data = self.folder / "data"
        configuration = self.folder / "server.properties"
        listeners = f"PLAINTEXT://127.0.0.1:{self.port()},SASL_PLAINTEXT://127.0.0.1:{self.port('sasl')}"
        configuration.write_text(
            CONFIGURATION.format(controller=self.port("controller"), listeners=listeners, data=data), encoding="utf-8"
        )
        java = [*JAVA, "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{fetch()}/*"]
        if not (data / "meta.properties").exists():
            storage = ["kafka.tools.StorageTool", "format", "-t", CLUSTER_ID, "-c", str(configuration)]
            process.run([*java, *storage])
        process.spawn(self.folder, "kafka", [*java, "kafka.Kafka", str(configuration)])
        process.wait(self._answers, "Apache Kafka", self.folder, "kafka")

    def _answers(self) -> bool:
        from kafka.admin import KafkaAdminClient
        from kafka.errors import KafkaError

        if not process.listens(self.port()):
            return False
        try:
            client = KafkaAdminClient(
                bootstrap_servers=self.bootstrap, request_timeout_ms=5000, bootstrap_timeout_ms=3000
            )
            try:
                client.list_topics()
            finally:
                client.close()
        except KafkaError:
            return False
        return True
