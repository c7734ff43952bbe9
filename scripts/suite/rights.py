"""What each daemon may publish and subscribe at nats-server, read from the list in proto/subjects.h."""
import re

from .layout import REPO

PARTITIONS = 64  # at most, whatever CAUSEWAY_PARTITIONS says
READS = ("CONSUMER.CREATE.{stream}.*", "CONSUMER.MSG.NEXT.{stream}.*")
LOOKS = ("STREAM.INFO.{stream}", "STREAM.CREATE.{stream}", "DIRECT.GET.{stream}")
TRIMS = ("STREAM.PURGE.{stream}",)


def rows(macro, text):
    """Rows of one X macro, as lists of their texts behind the name."""
    body = re.search(rf"#define {macro}\(X\)(.*?)\n\n", text, re.S)[1]
    found = re.findall(r"X\((\w+),(.*?)\)\s*(?:\\|$)", body, re.S)
    joined = ((name, re.sub(r'"[\s\\]+"', "", rest)) for name, rest in found)  # a text over several lines is one
    return [(name, re.findall(r'"([^"]*)"', rest)) for name, rest in joined]


def spell(pattern, daemon):
    return re.sub(r"<[\w ]+>", "*", pattern.replace("<daemon>", daemon))


def of_logs(name, text):
    publish = []
    for log, (pattern, senders, readers, trimmer) in rows("CW_LOGS", text):
        sends, reads, trims = name in senders.split(), name in readers.split(), name == trimmer
        if trims:
            publish.append(re.sub(r"<[\w ]+>", "*", pattern))
        elif sends:
            publish.append(spell(pattern, name))
        calls = (LOOKS if sends or reads or trims else ()) + (READS if reads else ()) + (TRIMS if trims else ())
        publish += [f"$JS.API.{call.format(stream=f'{log}_{p}')}" for call in calls for p in range(PARTITIONS)]
    return publish


def inbox(name):
    return f"_INBOX.{name[:20]}.>"


def permissions(name):
    """Answers go to the inboxes of who asks. Not by "allow_responses": nats-server remembers the reply subject of each message
    that it delivers, those of the logs included, and goes through all of them with each further one."""
    text = (REPO / "proto" / "subjects.h").read_text()
    publish, subscribe, askers = [], [inbox(name)], set()
    for _, (pattern, kind, senders, receivers) in rows("CW_SUBJECTS", text):
        if name in senders.split():
            publish.append(spell(pattern, name))
        if name in receivers.split():
            subscribe.append(spell(pattern, name))
            askers |= set(senders.split()) if kind == "request" else set()
    publish += sorted(map(inbox, askers)) + of_logs(name, text)
    return {"publish": {"allow": publish}, "subscribe": {"allow": subscribe}}
