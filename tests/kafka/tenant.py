"""A tenant of a Kafka service, by the vendor's own client: fills topics of all kinds, and reads all that a tenant can see.

usage: tenant.py PORT USER PASSWORD fill|change|read|resume|transact|pipeline|under_way|grow|go_on|make_other|digest|leave_open|trespass|note     what it finds goes to standard output, as JSON
"""

import base64
import hashlib
import json
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ConfigSource,
    NewTopic,
    OffsetSpec,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

PATIENCE = 30
DAY_MS = 24 * 3600 * 1000


class Tenant:
    def __init__(self, port, user, password):
        self.login = {
            "bootstrap.servers": f"127.0.0.1:{port}",
            "security.protocol": "SASL_SSL",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": user,
            "sasl.password": password,
            "enable.ssl.certificate.verification": False,
            "log_level": 3,
        }
        self.admin = AdminClient(self.login)

    def topic(self, name, partitions=1, **settings):
        config = {key.replace("_", "."): str(value) for key, value in settings.items()}
        made = self.admin.create_topics([NewTopic(name, partitions, 1, config=config)])
        made[name].result(PATIENCE)

    def producer(self, **settings):
        return Producer({**self.login, **{key.replace("_", "."): value for key, value in settings.items()}})

    def consumer(self, group="reader", **settings):
        return Consumer({
            **self.login,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            **settings,
        })

    def commit(self, group, offsets):
        """A server makes its topic of groups when the first of them is asked for: until then each partition is an error."""
        partitions = [TopicPartition(topic, index, offset, metadata) for topic, index, offset, metadata in offsets]
        until = time.time() + PATIENCE
        while True:
            asked = self.admin.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, partitions)])
            told = [at for done in asked.values() for at in done.result(PATIENCE).topic_partitions]
            errors = [at.error for at in told if at.error is not None]
            if not errors:
                return
            if time.time() > until:
                raise KafkaException(errors[0])
            time.sleep(0.2)

    def delete_before(self, topic, index, offset):
        for done in self.admin.delete_records([TopicPartition(topic, index, offset)]).values():
            done.result(PATIENCE)


def fill(tenant):
    """Topics of all kinds, as in the issue's list and bug reports of tools that do the same job."""
    now = int(time.time() * 1000)
    for codec in ("none", "gzip", "snappy", "lz4", "zstd"):
        tenant.topic(f"codec-{codec}", 3)
        producer = tenant.producer(compression_type=codec, linger_ms=20)
        for number in range(2000):
            producer.produce(f"codec-{codec}", f"value {number} ".encode() * 10, f"{number}".encode(), timestamp=now - number)
        producer.flush()

    tenant.topic("odd", 2)
    producer = tenant.producer()
    producer.produce("odd", b"no key", partition=0)
    producer.produce("odd", None, b"no value", partition=0)
    producer.produce("odd", None, None, partition=0)
    producer.produce("odd", b"", b"", partition=0)
    headers = [("twice", b"1"), ("twice", b"2"), ("null", None), ("empty", b""), ("", b"no name")]
    producer.produce("odd", b"headers", headers=headers, partition=1)
    producer.produce("odd", bytes(range(256)), bytes(reversed(range(256))), partition=1)
    producer.flush()

    tenant.topic("large", max_message_bytes=4 << 20)
    producer = tenant.producer(message_max_bytes=4 << 20)
    for number in range(3):
        producer.produce("large", bytes([number]) * (1 << 20), b"large")
        producer.flush()

    tenant.topic("empty", 5)
    tenant.topic("many", 100)
    producer = tenant.producer()
    for index in range(0, 100, 7):
        producer.produce("many", f"in {index}".encode(), partition=index)
    producer.flush()

    tenant.topic("broker-time", message_timestamp_type="LogAppendTime")
    producer = tenant.producer()
    for number in range(100):
        producer.produce("broker-time", f"{number}".encode(), timestamp=now - 5 * DAY_MS)
        producer.flush()

    # What retention would take as soon as it looks: a copy must have it.
    tenant.topic("old", retention_ms=365 * DAY_MS, segment_bytes=1 << 20)
    producer = tenant.producer()
    for days in range(100, 0, -1):
        producer.produce("old", f"{days} days".encode(), timestamp=now - days * DAY_MS)
    producer.flush()

    tenant.topic("trimmed", 2)
    producer = tenant.producer(linger_ms=50)
    for number in range(1000):
        producer.produce("trimmed", f"{number}".encode(), partition=number % 2)
    producer.flush()
    tenant.delete_before("trimmed", 0, 77)
    tenant.delete_before("trimmed", 1, 500)

    transactions(tenant)
    compacted(tenant)

    tenant.commit("half", [("codec-lz4", index, 100 + index, "") for index in range(3)] + [("trimmed", 0, 300, "a note, ü")])
    tenant.commit("at the end", [("codec-gzip", index, end_of(tenant, "codec-gzip", index), "") for index in range(3)])
    tenant.commit("behind the start", [("trimmed", 1, 5, "")])
    tenant.commit("after a transaction", [("transactions", 0, end_of(tenant, "transactions", 0), "")])


def transactions(tenant):
    """Committed and given up, in turns, the last one given up: the log ends with what nobody sees."""
    tenant.topic("transactions", 2)
    producer = tenant.producer(transactional_id="mover")
    producer.init_transactions()
    for number in range(40):
        producer.begin_transaction()
        for part in range(3):
            producer.produce("transactions", f"{number}.{part}".encode(), partition=part % 2)
        producer.flush()
        if number % 4 == 3:
            producer.abort_transaction()
        else:
            producer.commit_transaction()
    idempotent = tenant.producer(enable_idempotence=True)
    for number in range(10):
        idempotent.produce("transactions", f"plain {number}".encode(), partition=0)
    idempotent.flush()
    producer.begin_transaction()
    producer.produce("transactions", b"never seen", partition=0)
    producer.flush()
    producer.abort_transaction()


def compacted(tenant):
    """Batches thinned by compaction, a tombstone among them."""
    tenant.topic(
        "compacted", cleanup_policy="compact", segment_ms=300, min_cleanable_dirty_ratio=0.01,
        max_compaction_lag_ms=300, delete_retention_ms=DAY_MS,
    )
    producer = tenant.producer(linger_ms=100)
    for turn in range(6):
        for key in range(50):
            value = None if turn == 3 and key < 5 else f"{turn}.{key}".encode()
            producer.produce("compacted", value, f"{key if key % 3 else f'{key}.{turn}'}".encode())
        producer.flush()
        time.sleep(0.5)
    # From here on nothing more goes, so that what is read at two times can be compared.
    held = ConfigResource(ResourceType.TOPIC, "compacted", incremental_configs=[
        ConfigEntry("max.compaction.lag.ms", None, incremental_operation=AlterConfigOpType.DELETE),
        ConfigEntry("min.compaction.lag.ms", str(DAY_MS), incremental_operation=AlterConfigOpType.SET),
    ])
    for done in tenant.admin.incremental_alter_configs([held]).values():
        done.result(PATIENCE)
    time.sleep(3)


def change(tenant):
    """What only a backup that is made later has."""
    producer = tenant.producer()
    for number in range(500):
        producer.produce("codec-none", f"later {number}".encode())
    producer.flush()
    tenant.topic("made-later", 2, cleanup_policy="compact,delete")
    for done in tenant.admin.delete_topics(["empty"]).values():
        done.result(PATIENCE)
    resource = ConfigResource(ResourceType.TOPIC, "old", incremental_configs=[
        ConfigEntry("retention.ms", str(400 * DAY_MS), incremental_operation=AlterConfigOpType.SET),
    ])
    for done in tenant.admin.incremental_alter_configs([resource]).values():
        done.result(PATIENCE)
    tenant.commit("half", [("codec-lz4", 0, 555, "later")])


def all_offsets(tenant, partitions, which):
    asked = tenant.admin.list_offsets({TopicPartition(*partition): which for partition in partitions})
    return {(at.topic, at.partition): done.result(PATIENCE).offset for at, done in asked.items()}


def end_of(tenant, topic, index):
    return all_offsets(tenant, [(topic, index)], OffsetSpec.latest())[topic, index]


def text(value):
    return None if value is None else base64.b64encode(value).decode()


def read_partitions(consumer, partitions):
    """All records of each partition, where it ends, and where a client that has read it to the end stands."""
    consumer.assign([TopicPartition(*partition, OFFSET_BEGINNING) for partition in partitions])
    records, ends, until = {partition: [] for partition in partitions}, {}, time.time() + 4 * PATIENCE
    while len(ends) < len(partitions):
        if time.time() > until:
            raise TimeoutError(f"these did not come to their end: {sorted(set(partitions) - set(ends))}")
        message = consumer.poll(1)
        if message is None:
            continue
        partition = (message.topic(), message.partition())
        if message.error():
            if message.error().name() != "_PARTITION_EOF":
                raise KafkaException(message.error())
            ends[partition] = message.offset()
            continue
        headers = [[name, text(value)] for name, value in message.headers() or []]
        record = [message.offset(), *message.timestamp(), text(message.key()), text(message.value()), headers]
        records[partition].append(record)
    positions = consumer.position([TopicPartition(*partition) for partition in partitions])
    at = {(position.topic, position.partition): position.offset for position in positions}
    return {partition: (records[partition], ends[partition], at[partition]) for partition in partitions}


def settings(tenant, names):
    asked = tenant.admin.describe_configs([ConfigResource(ResourceType.TOPIC, name) for name in names])
    source = ConfigSource.DYNAMIC_TOPIC_CONFIG.value
    return {
        resource.name: {name: entry.value for name, entry in done.result(PATIENCE).items() if entry.source == source}
        for resource, done in asked.items()
    }


def groups(tenant):
    found = {}
    listed = tenant.admin.list_consumer_groups().result(PATIENCE)
    for group in sorted(listed.valid, key=lambda group: group.group_id):
        asked = tenant.admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group.group_id)])
        for done in asked.values():
            told = done.result(PATIENCE).topic_partitions
            found[group.group_id] = sorted([at.topic, at.partition, at.offset, at.metadata] for at in told)
    return found


def read(tenant):
    """All that a tenant can see."""
    listed = tenant.admin.list_topics(timeout=PATIENCE).topics
    names = sorted(name for name in listed if not name.startswith("__"))
    partitions = [(name, index) for name in names for index in sorted(listed[name].partitions)]
    consumer = tenant.consumer()
    found = read_partitions(consumer, partitions)
    consumer.close()
    lows = all_offsets(tenant, partitions, OffsetSpec.earliest())
    highs = all_offsets(tenant, partitions, OffsetSpec.latest())
    topics = {name: {"settings": set_for_it, "partitions": {}} for name, set_for_it in settings(tenant, names).items()}
    for name, index in partitions:
        records, end, position = found[name, index]
        topics[name]["partitions"][index] = {
            "low": lows[name, index], "high": highs[name, index], "end": end, "position": position, "records": records,
        }
    return {"topics": topics, "groups": groups(tenant)}


def resume(tenant):
    """What a group reads next, and what a producer may still do: in a transaction, and in the order of its numbers."""
    consumer = tenant.consumer("half")
    consumer.assign([TopicPartition("codec-lz4", 1), TopicPartition("trimmed", 0)])
    found, until = {}, time.time() + PATIENCE
    while len(found) < 2 and time.time() < until:
        message = consumer.poll(1)
        if message is not None and not message.error():
            found.setdefault(message.topic(), [message.offset(), text(message.value())])
    consumer.close()
    producer = tenant.producer(transactional_id="mover")
    producer.init_transactions()
    for number in range(3):
        producer.begin_transaction()
        producer.produce("transactions", f"resumed {number}".encode(), partition=0)
        producer.commit_transaction()
    for settings_of in ({}, {"enable_idempotence": True}):
        producer = tenant.producer(**settings_of)
        producer.produce("compacted", b"resumed", b"resumed")
        producer.produce("trimmed", b"resumed", partition=1)
        if producer.flush(PATIENCE):
            raise TimeoutError("what was produced was not acknowledged")
    return found


def transact(tenant):
    """Transactions over four partitions, by several producers at once; of each when it was begun and when it was acknowledged."""
    tenant.topic("moves", 4)
    told, until = [], time.time() + 12

    def move(writer):
        producer = tenant.producer(transactional_id=f"writer-{writer}", linger_ms=0)
        producer.init_transactions()
        number = 0
        while time.time() < until:
            number += 1
            begun = time.time()
            producer.begin_transaction()
            for index in range(4):
                producer.produce("moves", f"{writer}.{number}".encode(), partition=index)
            if number % 7 == 0:
                producer.abort_transaction()
                continue
            producer.commit_transaction()
            told.append([f"{writer}.{number}", begun, time.time()])
            time.sleep(0.03)

    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(move, writer) for writer in range(3)]:
            done.result()
    return told


def pipeline(tenant):
    """Reads one topic and writes another, each once: how far it has read is committed with what it wrote."""
    tenant.topic("read-from")
    tenant.topic("written-to")
    count = 20_000
    producer = tenant.producer()
    for number in range(count):
        producer.produce("read-from", str(number).encode())
    producer.flush()
    worker = tenant.producer(transactional_id="pipeline", linger_ms=0)
    worker.init_transactions()
    consumer = tenant.consumer("pipeline")
    consumer.assign([TopicPartition("read-from", 0, 0)])
    done, until = 0, time.time() + 12
    while time.time() < until and done < count:
        batch = [message for message in consumer.consume(7, timeout=5) if message.error() is None]
        worker.begin_transaction()
        for message in batch:
            worker.produce("written-to", message.value())
        done = batch[-1].offset() + 1
        worker.send_offsets_to_transaction([TopicPartition("read-from", 0, done)], consumer.consumer_group_metadata())
        worker.commit_transaction()
        time.sleep(0.03)
    consumer.close()
    return done


def of_length(tenant, topic, count):
    """Values of 100 KiB in which nothing can be compressed."""
    producer = tenant.producer(linger_ms=5)
    for _ in range(count):
        producer.produce(topic, os.urandom(100 << 10))
        producer.poll(0)
    if producer.flush(PATIENCE):
        raise TimeoutError("what was produced was not acknowledged")


def grow(tenant):
    """A long topic, a short one, and one that is not compacted yet."""
    tenant.topic("long", segment_bytes=8 << 20)
    of_length(tenant, "long", 400)
    tenant.topic("short")
    of_length(tenant, "short", 3)
    tenant.topic("thinned", segment_bytes=4 << 20, min_cleanable_dirty_ratio=0.01, max_compaction_lag_ms=100)
    producer = tenant.producer()
    for number in range(120):
        producer.produce("thinned", os.urandom(100 << 10), b"always the same" if number % 2 else str(number).encode())
        producer.poll(0)
    producer.flush()


def one_long(tenant):
    tenant.topic("long", segment_bytes=8 << 20)
    of_length(tenant, "long", 400)


def overtake(tenant):
    """Most of the long topic goes."""
    tenant.delete_before("long", 0, 300)


def make_long_anew(tenant):
    for done in tenant.admin.delete_topics(["long"]).values():
        done.result(PATIENCE)
    time.sleep(1)
    tenant.topic("long")
    of_length(tenant, "long", 3)


def set_policy(tenant, topic, policy):
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[
        ConfigEntry("cleanup.policy", policy, incremental_operation=AlterConfigOpType.SET),
    ])
    for done in tenant.admin.incremental_alter_configs([resource]).values():
        done.result(PATIENCE)


def go_on(tenant):
    """The long topic goes on at both its ends."""
    low = all_offsets(tenant, [("long", 0)], OffsetSpec.earliest())["long", 0]
    tenant.delete_before("long", 0, low + 50)
    of_length(tenant, "long", 20)


def make_other(tenant):
    """The short topic is made anew, and one is compacted for a moment."""
    for done in tenant.admin.delete_topics(["short"]).values():
        done.result(PATIENCE)
    time.sleep(1)
    tenant.topic("short")
    of_length(tenant, "short", 3)
    before = len(digest(tenant)["thinned/0"]["offsets"])
    set_policy(tenant, "thinned", "compact")
    until = time.time() + 2 * PATIENCE
    producer = tenant.producer()
    while len(digest(tenant)["thinned/0"]["offsets"]) >= before:
        if time.time() > until:
            raise TimeoutError("nothing was compacted")
        producer.produce("thinned", b"", b"always the same")
        producer.flush()
        time.sleep(2)
    set_policy(tenant, "thinned", "delete")
    time.sleep(1)


def digest(tenant):
    """What each partition holds, in short."""
    listed = tenant.admin.list_topics(timeout=PATIENCE).topics
    partitions = [(name, index) for name in listed if not name.startswith("__") for index in listed[name].partitions]
    consumer = tenant.consumer()
    found = read_partitions(consumer, partitions)
    consumer.close()
    return {
        f"{name}/{index}": {
            "offsets": [record[0] for record in records],
            "records": hashlib.sha256(repr(records).encode()).hexdigest(),
            "end": end,
        }
        for (name, index), (records, end, _) in found.items()
    }


def under_way(tenant):
    """Waits until what is to run beside backups does."""
    until = time.time() + 2 * PATIENCE

    def is_written(topic):
        try:
            return topic in tenant.admin.list_topics(timeout=PATIENCE).topics and end_of(tenant, topic, 0) > 0
        except KafkaException:  # it was made just now, and nobody leads it yet
            return False

    for topic in ("moves", "written-to"):
        while not is_written(topic):
            if time.time() > until:
                raise TimeoutError(f"nothing is written to {topic}")
            time.sleep(0.1)


def leave_open(tenant):
    """A transaction that does not end, and what others wrote around it and were told that it is there."""
    tenant.topic("open", 2)

    def begun(name):
        producer = tenant.producer(transactional_id=name, transaction_timeout_ms=900_000)
        producer.init_transactions()
        producer.begin_transaction()
        return producer

    def write(producer, value, *partitions):
        for index in partitions:
            producer.produce("open", value, partition=index)
        if producer.flush(PATIENCE):
            raise TimeoutError("what was produced was not acknowledged")

    around, undecided, other = begun("around"), begun("undecided"), begun("other")
    write(around, b"before it", 0, 1)
    write(undecided, b"undecided", 0)
    write(around, b"behind it", 0)
    around.commit_transaction()
    write(other, b"given up", 0, 1)
    other.abort_transaction()
    other.begin_transaction()
    write(other, b"committed", 0, 1)
    other.commit_transaction()
    write(tenant.producer(), b"of no transaction", 0, 1)
    write(undecided, b"undecided, too", 0)
    ends = all_offsets(tenant, [("open", 0), ("open", 1)], OffsetSpec.latest())
    tenant.commit("reads all", [(topic, index, end, "") for (topic, index), end in ends.items()])


def refused(action):
    """What the server says to it, or that it did it. An action yields what is to come, or has an answer already."""
    try:
        answer = action()
        if isinstance(answer, str):
            return answer
        for done in answer.values():
            done.result(PATIENCE)
        return "done"
    except KafkaException as error:
        return error.args[0].name()


def said(errors):
    """What a client heard in the background."""
    return errors[0].name() if errors else "nothing"


def trespass(tenant):
    """What a tenant must not do, each with what the server says to it."""
    me = tenant.login["sasl.username"]
    admin = tenant.admin
    if me == "app_user":
        # So that the server's own topics are there.
        tenant.topic("own")
        tenant.commit("own", [("own", 0, 0, "")])
        tenant.producer(transactional_id="own").init_transactions()
    acl = AclBinding(
        ResourceType.BROKER, "kafka-cluster", ResourcePatternType.LITERAL, f"User:{me}", "*",
        AclOperation.ALL, AclPermissionType.ALLOW,
    )
    every_acl = AclBindingFilter(
        ResourceType.ANY, None, ResourcePatternType.ANY, None, None, AclOperation.ANY, AclPermissionType.ANY,
    )

    def user(name):
        info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_256, 4096)
        return lambda: admin.alter_user_scram_credentials([UserScramCredentialUpsertion(name, info, b"mine")])

    def setting(kind, name, key, value):
        entry = ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
        return lambda: admin.incremental_alter_configs([ConfigResource(kind, name, incremental_configs=[entry])])

    def write(topic):
        def action():
            # The client by which the server lets anybody write to its own topics who has the right to.
            producer, told = tenant.producer(client_id="__admin_client"), []
            producer.produce(topic, b"x", b"x", partition=0, on_delivery=lambda error, _: told.append(error))
            producer.flush(PATIENCE)
            return "done" if told and told[0] is None else said(told)
        return action

    def by_plain(name, password):
        def action():
            told = []
            other = AdminClient({
                **tenant.login, "sasl.mechanism": "PLAIN", "sasl.username": name, "sasl.password": password,
                "error_cb": told.append,
            })
            until = time.time() + PATIENCE
            while not told and time.time() < until:
                try:
                    other.list_topics(timeout=5)
                    return "done"
                except KafkaException:
                    other.poll(0.1)
            return said(told)
        return action

    return {
        "a right": refused(lambda: admin.create_acls([acl])),
        "rights taken": refused(lambda: admin.delete_acls([every_acl])),
        "a user": refused(user("another")),
        "the agent's password": refused(user("holdfast")),
        "the server's settings": refused(setting(ResourceType.BROKER, "1", "log.retention.ms", "1")),
        "its own topic's settings": refused(setting(ResourceType.TOPIC, "__consumer_offsets", "retention.ms", "1")),
        "its groups": refused(write("__consumer_offsets")),
        "its transactions": refused(write("__transaction_state")),
        "its topic deleted": refused(lambda: admin.delete_topics(["__consumer_offsets"])),
        "the agent, by the tenant's password": refused(by_plain("holdfast", tenant.login["sasl.password"])),
        "the tenant, by plain": refused(by_plain(me, tenant.login["sasl.password"])),
        "the server's log": refused(lambda: admin.create_topics([NewTopic("__cluster_metadata", 1, 1)])),
        "the server's topic, before it": refused(lambda: admin.create_topics([NewTopic("__share_group_state", 1, 1)])),
        "a topic": refused(lambda: admin.create_topics([NewTopic(f"by-{me}", 1, 1)])),
    }


def note(tenant):
    """Writes one record, and says what the server said to it; and how many are there."""
    if "notes" not in tenant.admin.list_topics(timeout=PATIENCE).topics:
        tenant.topic("notes")
    producer, told = tenant.producer(message_timeout_ms=10_000), []
    producer.produce("notes", b"x", on_delivery=lambda error, _: told.append(error))
    producer.flush(PATIENCE)
    answer = "done" if told and told[0] is None else said(told)
    return {"answer": answer, "there": end_of(tenant, "notes", 0)}


def main():
    port, user, password, command = sys.argv[1:]
    tenant = Tenant(port, user, password)
    json.dump(globals()[command](tenant), sys.stdout)


main()
