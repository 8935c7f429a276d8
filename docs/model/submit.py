"""Exhaustive model of `submit --id X`: several submits of one id, with equal or different content.

usage: submit.py [WORLD [SWITCH,...]]   for instance `submit.py 2 equal_acks`. WORLD: submits[,taken]
In a world with `taken` the id already has a context without a type: of a commit that is not decided, or of release 0.1.

A submit: upload under `{id}/.submit/~{N}/` → insert type and context in one → compare with what is stored → publish what
is stored. A submit may also find a stored context before it uploads; it then goes on with the comparison.
Content is (type, bytes): `type` stands for all that the context says (type, values, names, exec bits), `bytes` for what the
file holds, whose digest the context says. N is the number of the process: a repeated submit is another process.

The state
  store    N -> bytes: the blob under `{id}/.submit/~{N}/`
  flight   writes that were issued and have not landed: (kind, key, value, waiter); waiter None: nobody waits any more.
           They land at any time, in any order, or never.
  context  (type, (N, bytes)): what is stored under X; None where nothing is
  bus      visible events: (type, (N, bytes)), what the consumer is made to read
  submits  step, content: New · Uploading · Inserting · Publishing · Done (exit 0) ·
           Refused (exit non-zero, it published nothing) · Gave up (only mutations: it never steps again)

What is not a process of its own, and why nothing is lost by it
  Crash, or a submit that gives up: a process that never steps again. Lost answer, slow call: it is sent again (`again`),
  and both copies may land. A stored context never changes, so gc may read it and delete much later: one step.
  A loser that deletes its own uploads follows the rule of gc.
"""
from typing import NamedTuple

from search import main, suite

NEW, UPLOADING, INSERTING, PUBLISHING = 'New', 'Uploading', 'Inserting', 'Publishing'
DONE, REFUSED, GAVE_UP = 'Done', 'Refused', 'Gave up'
UNTYPED = 'no type'
OTHER = 'not of a submit'               # in place of N: a key that is not of the form `.submit/~{N}`
CONTENTS = [(0, 0)], [(0, 0), (1, 0), (0, 1), (1, 1)], [(0, 0), (1, 1)]        # what the first, second, third submit may have


class Submit(NamedTuple):
    step: str
    content: tuple


class State(NamedTuple):
    store: frozenset
    flight: frozenset
    context: tuple
    bus: frozenset
    submits: tuple


def at(values, i, value): return values[:i] + (value,) + values[i + 1:]


class Submits:
    NAME = 'submit'
    DESIGN = ('2', '3', '2,taken')
    MUTATIONS = dict(
        shared='2',             # one blob key for all submits of an id (release 0.1)
        overwrite='2',          # type and context are put, not inserted
        two_inserts='2',        # the type is inserted first, the context then
        early='1',              # the insert does not wait for the blobs
        no_compare='2',         # what is stored is not compared: success
        types_only='2',         # digests are not compared
        digests_only='2',       # the type is not compared (nor values, names, exec bits)
        untyped='1,taken',      # a stored context without a type counts as equal where the rest is
        publish_first='1',      # published before the insert is acknowledged
        own='2',                # publishes what it uploaded, not what is stored
        equal_acks='2',         # an equal context is stored: success, without publishing
        changed='1',            # an upload that is sent again under the same N sends what the file holds now
        fail_deletes='1',       # a submit that gives up its insert deletes its uploads
        loser_blind='1',        # an insert that finds a context deletes its uploads, although that context may be its own
        gc_open='1',            # gc also deletes keys of ids that have no stored context
        gc_named='1',           # gc also deletes what the stored context names
        gc_prefix='1,taken',    # gc takes every key that is not of the stored submit, whatever its form
        gc_lazy='2')            # gc leaves submitted keys alone: a leak
    LANDMARKS = ('equal: success of a submit whose context is not stored', 'refused', 'a late upload after the event',
                 'an insert that nobody waits for', 'gc deleted the upload of a submit that goes on')

    def __init__(self, world, broken):
        self.world, self.broken = world, broken
        self.count, self.taken = int(world.split(',')[0]), 'taken' in world

    def start(self):
        store, context = frozenset(), (None, None)
        if self.taken:
            store, context = frozenset([(OTHER, 0), ((OTHER, 'undecided'), 0)]), (UNTYPED, (OTHER, 0))
        return State(store, frozenset(), context, frozenset(), (Submit(NEW, None),) * self.count)

    def n(self, p): return 0 if 'shared' in self.broken else p

    def becomes(self, s, p, step, content, *writes):
        flight = s.flight | {(*write, p) for write in writes}
        return s._replace(flight=flight, submits=at(s.submits, p, Submit(step, content)))

    def upload(self, s, p, content):
        kind, bytes_ = content
        writes = [('put', self.n(p), bytes_)]
        if 'early' in self.broken:
            writes.append(('insert', 'X', (kind, (self.n(p), bytes_))))
        if 'publish_first' in self.broken:
            s = s._replace(bus=s.bus | {(kind, (self.n(p), bytes_))})
        return self.becomes(s, p, UPLOADING, content, *writes)

    def insert(self, s, p):
        kind, bytes_ = content = s.submits[p].content
        value = (kind, (self.n(p), bytes_))
        if 'two_inserts' in self.broken:
            value = (kind, None) if s.context[0] is None else (None, value[1])
        return self.becomes(s, p, INSERTING, content, ('insert', 'X', value))

    def compare(self, s, p):
        """The insert was acknowledged, or a context was found: what is stored decides."""
        content, broken = s.submits[p].content, self.broken
        kind, (n, bytes_) = s.context
        same_kind = kind == content[0] or 'digests_only' in broken or 'untyped' in broken and kind == UNTYPED
        same_bytes = bytes_ == content[1] or 'types_only' in broken
        if not (same_kind and same_bytes or 'no_compare' in broken):
            return self.becomes(s, p, REFUSED, content)
        if 'equal_acks' in broken and n != self.n(p):
            return self.becomes(s, p, DONE, content)
        event = (content[0], (self.n(p), content[1])) if 'own' in broken else s.context
        return self.becomes(s, p, PUBLISHING, content, ('publish', 'X', event))

    def submit(self, s):
        for p, (step, content) in enumerate(s.submits):
            if step == NEW:
                for content in CONTENTS[p]:
                    yield ('submit', p, content), self.upload(s, p, content)
                    if None not in s.context:
                        yield ('submit', p, content, 'finds a context'), self.compare(self.becomes(s, p, NEW, content), p)
                break                                                       # they begin in order
            waited = [w for w in s.flight if w[3] == p]
            for kind, key, value, _ in waited:                              # too slow: sent again, and the first may still land
                n = s._replace(flight=s.flight | {(kind, key, value, None)})
                if 'changed' in self.broken and kind == 'put':
                    flight = n.flight - {(kind, key, value, p)} | {(kind, key, 1 - value, p)}
                    n = n._replace(flight=flight, submits=at(n.submits, p, Submit(step, (content[0], 1 - value))))
                yield ('again', kind, p), n
                if 'fail_deletes' in self.broken and kind == 'insert':
                    rest = frozenset(x for x in s.store if x[0] != self.n(p))
                    gone = frozenset(w for w in n.flight if w[3] != p)
                    yield ('gives up', p), n._replace(store=rest, flight=gone, submits=at(s.submits, p, Submit(GAVE_UP, content)))

    def land(self, s):
        for write in s.flight:
            kind, key, value, p = write
            n = s._replace(flight=s.flight - {write})
            if kind == 'put':
                n = n._replace(store=frozenset(x for x in s.store if x[0] != key) | {(key, value)})
            elif kind == 'publish':
                n = n._replace(bus=s.bus | {value})
            elif 'overwrite' in self.broken:
                n = n._replace(context=value)
            else:                                                           # insert if absent; only two_inserts sends parts
                n = n._replace(context=tuple(new if old is None else old for old, new in zip(s.context, value)))
                if 'loser_blind' in self.broken and None not in s.context and p is not None:
                    n = n._replace(store=frozenset(x for x in n.store if x[0] != self.n(p)))
            if p is not None and not any(w[3] == p for w in n.flight):      # the last one that p waited for
                step, content = s.submits[p]
                if step == UPLOADING and kind == 'put' or None in n.context:
                    n = self.insert(n, p)
                elif step == PUBLISHING:
                    n = self.becomes(n, p, DONE, content)
                else:
                    n = self.compare(n, p)
            yield (kind, 'lands', key, value), n

    def deletable(self, key, context):
        """The rule of gc: a `.submit/~{N}` key of an id whose stored context names other keys."""
        if 'gc_lazy' in self.broken:
            return False
        if isinstance(key, tuple) and 'gc_prefix' not in self.broken or key == OTHER:
            return False
        if context[1] is None:
            return 'gc_open' in self.broken
        return key != context[1][0] or 'gc_named' in self.broken

    def gc(self, s):
        for x in s.store:
            if self.deletable(x[0], s.context):
                yield ('gc deletes', x[0]), s._replace(store=s.store - {x})

    def steps(self, s):
        yield from self.land(s)
        yield from self.submit(s)
        yield from self.gc(s)

    def violations(self, s):
        store, stored = dict(s.store), None not in s.context
        started = [a.content for a in s.submits if a.step != NEW]
        for kind, (n, bytes_) in s.bus | ({s.context} if stored else set()):
            if store.get(n) != bytes_:
                yield 'stored context or visible event: a blob is missing or changed'
        if any(event != s.context for event in s.bus):
            yield 'a visible event is not what is stored'
        if any(kind == UNTYPED for kind, _ in s.bus):
            yield 'visible event of a commit that is not decided'
        if stored and s.context[0] != UNTYPED and (s.context[0], s.context[1][1]) not in started:
            yield 'what is stored was submitted by nobody'
        for a in s.submits:
            if a.step == DONE and (not stored or a.content != (s.context[0], s.context[1][1])):
                yield 'success, but something else is stored'
            if a.step == DONE and not s.bus:
                yield 'success, but nothing is published'
            if a.step == REFUSED and stored and a.content == (s.context[0], s.context[1][1]):
                yield 'refused, but what is stored is equal'
        if self.taken and ((OTHER, 'undecided'), 0) not in s.store:
            yield 'gc deleted a key that is not of a submit'
        # Every process dies and gc runs to its end.
        if stored and any(n != s.context[1][0] and not isinstance(n, tuple) and not self.deletable(n, s.context) for n in store):
            yield 'leak after gc'

    def landmarks(self, s):
        if s.context[1] is None:
            if any(w[0] == 'insert' and w[3] is None for w in s.flight):
                yield 'an insert that nobody waits for'
            return
        if any(a.step == DONE and p != s.context[1][0] for p, a in enumerate(s.submits)):
            yield 'equal: success of a submit whose context is not stored'
        if any(a.step == REFUSED for a in s.submits):
            yield 'refused'
        if s.bus and any(w[0] == 'put' for w in s.flight):
            yield 'a late upload after the event'
        stored = {n for n, _ in s.store}
        if any(a.step in (INSERTING, PUBLISHING) and p not in stored and p != s.context[1][0] for p, a in enumerate(s.submits)):
            yield 'gc deleted the upload of a submit that goes on'


if __name__ == '__main__':
    main(Submits, lambda: suite(Submits))
