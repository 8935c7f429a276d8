"""Exhaustive model of failure documents beside the commit: attempts of one execution, each of which may fail at any step.

usage: failure.py [WORLD [SWITCH,...]]   for instance `failure.py 2,1 shared_id`. WORLD: attempts, dones of each.

An attempt is one start of the sidecar. It fails by `/fail`, the lease, `--give-up` or the exit code of its module. Then it
uploads what is kept of the outputs under `.failed` keys, and puts one failure document, which names them. Both carry the
attempt. It inserts `abandoned` first if it has ever asked for a decision in this run; else the execution stays open.
Whether a failure is overcome is never stored: a reader sees it in the record.

The state
  store     ('~N', N) or ('.failed', attempt) -> content: blobs. The content of a proposal is its N = (attempt, done).
  flight    writes that were issued and have not landed: (kind, key, value, waiter); waiter None: nobody waits any more.
            They land at any time, in any order, or never. Kinds: put, insert (of the record), failure.
  record    None, N of the decided proposal, or (ABANDONED, attempt, or 'gc')
  failures  id -> (as first written, as it is now); a document is (attempt, key of what is kept, its content, note)
  attempts  step, dones, asked: each N that it, or the journal it began from, gave to `decide`: their inserts may still land
            New · Ready · Committing · Deciding · Failing, abandoning · Failing, keeping · Failing, recording · Failed ·
            Done (rolled the record forward, see decide_once.py) · Next run (beaten by `abandoned`: 503) ·
            Blocked (only a mutation does this)

What is not modelled, and why nothing is lost by it
  Runs: X includes the run, so each run is this model again. Documents and publishing: decide_once.py.
  Crash: an attempt that never steps again. A restart is another attempt with another id, also where it begins from the
  journal of the first; a clone of the disk is one whose original steps on. Resent proposals: decide_once.py.
"""
from typing import NamedTuple

from search import main, suite

NEW, READY, COMMITTING, DECIDING = 'New', 'Ready', 'Committing', 'Deciding'
DONE, NEXT_RUN, BLOCKED = 'Done', 'Next run', 'Blocked'
ABANDONING, KEEPING, RECORDING, FAILED = 'Failing, abandoning', 'Failing, keeping', 'Failing, recording', 'Failed'
ABANDONED = 'abandoned'


class Attempt(NamedTuple):
    step: str
    dones: int
    asked: frozenset


class State(NamedTuple):
    store: frozenset
    flight: frozenset
    record: tuple
    failures: frozenset
    attempts: tuple


def at(values, i, value): return values[:i] + (value,) + values[i + 1:]
def put(pairs, key, value): return frozenset(x for x in pairs if x[0] != key) | {(key, value)}
def decided(record): return record is not None and isinstance(record[0], int)
def overcome(record): return decided(record)        # how every reader shows a failure; see the landmarks


class Failures:
    NAME = 'failure'
    DESIGN = ('1,2', '2,1')
    MUTATIONS = dict(
        shared_id='2,1',        # the id of a failure is that of the execution (0.1), or survives a restart
        shared_keys='2,1',      # attempts share their `.failed` keys (0.1)
        early='1,1',            # the document does not wait for what is kept
        names_proposal='1,1',   # the document names what the attempt uploaded for its proposal
        new_time='1,1',         # a document that is sent again has another time
        as_record='2,1',        # a failure in Ready closes the execution
        replaces='2,1',         # the failure is put in place of the record
        rewrite='2,1',          # whoever rolls forward marks the failures as overcome
        blocks='2,1',           # a start looks at failures first, and takes one for the outcome
        fail_blind='1,1',       # a failure in Deciding does not try to insert `abandoned`
        fail_by_step='1,2',     # only a failure in Deciding does; not one in a later `done` of the same attempt
        fail_forgets='2,1',     # nor does one after a restart from a journal in `deciding`
        doc_first='1,1',        # the document is written before `abandoned` is acknowledged
        gc_failed='1,1')        # gc takes `.failed` keys for those of a proposal that no record names
    LANDMARKS = ('a failure that is overcome', 'an attempt that wanted to fail is decided', 'failed in Deciding',
                 'failed in Ready, and another is decided later', 'failures of two attempts', 'gc deleted a proposal of a failed attempt')

    def __init__(self, world, broken):
        self.world, self.broken = world, broken
        self.count, self.dones = map(int, world.split(','))

    def start(self):
        return State(frozenset(), frozenset(), None, frozenset(), (Attempt(NEW, 0, frozenset()),) * self.count)

    # Names

    def failure_id(self, p): return 'X' if 'shared_id' in self.broken else ('X', p)

    def kept_key(self, p): return ('.failed', 'X' if 'shared_keys' in self.broken else p)

    def document(self, s, p):
        if 'names_proposal' in self.broken and s.attempts[p].asked:
            n = max(s.attempts[p].asked)
            return (p, ('~N', n), n, '')
        return (p, self.kept_key(p), p, '')

    def write(self, s, id_, document):
        first, _ = dict(s.failures).get(id_, (document, None))
        return s._replace(failures=put(s.failures, id_, (first, document)))

    # What an attempt does

    def becomes(self, s, p, step, *writes, **known):
        flight = s.flight | {(*write, p) for write in writes}
        return s._replace(flight=flight, attempts=at(s.attempts, p, s.attempts[p]._replace(step=step, **known)))

    def outcome(self, s):
        """What a start goes by: the record, and nothing else."""
        if 'blocks' in self.broken and s.failures:
            return BLOCKED
        return READY if s.record is None else DONE if decided(s.record) else NEXT_RUN

    def give_up(self, s, p):
        """What p waits for may still land; the uploads of a proposal that is never asked for matter to nobody but gc."""
        return s._replace(flight=frozenset((kind, key, value, None if w == p else w) for kind, key, value, w in s.flight
                                           if w != p or kind != 'put'))

    def fail(self, s, p):
        s = self.give_up(s, p)
        step, _, asked = s.attempts[p]
        if 'as_record' in self.broken and step == READY:
            s = s._replace(record=s.record or (ABANDONED, p))
        forgets = 'fail_blind' in self.broken or 'fail_by_step' in self.broken and step != DECIDING \
            or 'fail_forgets' in self.broken and all(n[0] != p for n in asked)
        if asked and not forgets:
            if 'doc_first' in self.broken:
                s = self.write(s._replace(store=put(s.store, self.kept_key(p), p)), self.failure_id(p), self.document(s, p))
            return self.becomes(s, p, ABANDONING, ('insert', 'X', (ABANDONED, p)))
        return self.keep(s, p)

    def keep(self, s, p):
        if 'names_proposal' in self.broken and s.attempts[p].asked:
            return self.record(s, p)
        s = self.becomes(s, p, KEEPING, ('put', self.kept_key(p), p))
        return self.becomes(s, p, KEEPING, ('failure', self.failure_id(p), self.document(s, p))) if 'early' in self.broken else s

    def record(self, s, p):
        if 'replaces' in self.broken:
            s = s._replace(record=('failure', p))
        return self.becomes(s, p, RECORDING, ('failure', self.failure_id(p), self.document(s, p)))

    def attempt(self, s):
        for p, (step, dones, asked) in enumerate(s.attempts):
            if step == NEW:
                yield ('start', p), self.becomes(s, p, self.outcome(s))
                for q, other in enumerate(s.attempts):
                    if other.asked and other.step != FAILED:                # the journal says `deciding`
                        step = self.outcome(s)
                        again = [('insert', 'X', max(other.asked))] if step == READY else []
                        step = DECIDING if step == READY else step
                        yield ('start', p, 'from the journal of', q), self.becomes(s, p, step, *again, asked=other.asked)
                break                                                       # they begin in order
            if step in (READY, DECIDING) and dones < self.dones:            # from Deciding: given up, and a new N
                n = (p, dones)
                yield ('done', p, 'N', n), self.becomes(self.give_up(s, p), p, COMMITTING, ('put', ('~N', n), n), dones=dones + 1)
            if step in (READY, COMMITTING, DECIDING):
                yield ('fail', p, 'in', step), self.fail(s, p)
            for kind, key, value, w in s.flight:                            # too slow: sent again, and the first may still land
                if w == p and step in (KEEPING, RECORDING):
                    n = s._replace(flight=s.flight | {(kind, key, value, None)})
                    if kind == 'failure' and 'new_time' in self.broken:
                        n = n._replace(flight=n.flight - {(kind, key, value, p)} | {(kind, key, (*value[:3], 'later'), p)})
                    yield ('again', kind, p), n

    def acknowledged(self, s, p, kind):
        step, dones, asked = s.attempts[p]
        if step == COMMITTING:
            n = (p, dones - 1)
            return self.becomes(s, p, DECIDING, ('insert', 'X', n), asked=asked | {n})
        if step in (DECIDING, ABANDONING):
            if decided(s.record):
                return self.becomes(s, p, DONE)                             # no failure: the outcome is rolled forward
            return self.keep(s, p) if step == ABANDONING else self.becomes(s, p, NEXT_RUN)
        return self.record(s, p) if kind == 'put' else self.becomes(s, p, FAILED)

    # What the stores and everybody else do

    def land(self, s):
        for write in s.flight:
            kind, key, value, p = write
            n = s._replace(flight=s.flight - {write})
            if kind == 'put':
                n = n._replace(store=put(s.store, key, value))
            elif kind == 'failure':
                n = self.write(n, key, value)
            else:
                n = n._replace(record=s.record or value)
            if p is not None and not any(w[3] == p for w in n.flight):
                n = self.acknowledged(n, p, kind)
            yield (kind, 'lands', key, value), n

    def deletable(self, key, record):
        """The rule of gc, as in decide_once.py: a key of a proposal, the run has a record, and that names another."""
        form = key[0] == '~N' or 'gc_failed' in self.broken
        return form and record is not None and key != ('~N', record)

    def gc(self, s):
        if s.record is None and any(key[0] == '~N' for key, _ in s.store):
            yield ('gc abandons',), s._replace(record=(ABANDONED, 'gc'))
        for x in s.store:
            if self.deletable(x[0], s.record):
                yield ('gc deletes', x[0]), s._replace(store=s.store - {x})

    def steps(self, s):
        yield from self.land(s)
        yield from self.attempt(s)
        yield from self.gc(s)
        if 'rewrite' in self.broken and decided(s.record):
            for id_, (_, document) in s.failures:
                yield ('overcome', id_), self.write(s, id_, (*document[:3], 'overcome'))

    # What must hold

    def violations(self, s):
        store, failures = dict(s.store), dict(s.failures)
        for p, (step, _, asked) in enumerate(s.attempts):
            written = [now for _, now in failures.values() if now[0] == p]
            if step == FAILED and not written:
                yield 'a failure document is missing'
            if (step == FAILED or written) and (s.record in asked or decided(s.record) and s.record[0] == p):
                yield 'reported as failed, and its own proposal is decided'
            if s.record == (ABANDONED, p) and not asked:
                yield 'a failure of an attempt that never asked for a decision closes the execution'
        for first, now in failures.values():
            _, key, content, _ = now
            if first != now:
                yield 'a failure document changes after it was written'
            if store.get(key) != content:
                yield 'what a failure keeps is missing or changed'
        if decided(s.record) and store.get(('~N', s.record)) != s.record:
            yield 'decided record: a blob is missing or changed'
        if s.record is not None and not decided(s.record) and s.record[0] != ABANDONED:
            yield 'a failure stands in place of the record'
        if self.outcome(s) != self.outcome(s._replace(failures=frozenset())):
            yield 'a failure blocks or changes what a start does'

    def landmarks(self, s):
        failed = [p for p, a in enumerate(s.attempts) if a.step == FAILED]
        if s.failures and overcome(s.record):
            yield 'a failure that is overcome'
        if len(s.failures) > 1:
            yield 'failures of two attempts'
        for p in failed:
            if s.attempts[p].asked:
                yield 'failed in Deciding'
            if not s.attempts[p].asked and decided(s.record):
                yield 'failed in Ready, and another is decided later'
            if s.attempts[p].dones and s.record and not any(k == ('~N', (p, 0)) for k, _ in s.store) \
                    and not any(k == ('~N', (p, 0)) for _, k, _, _ in s.flight):
                yield 'gc deleted a proposal of a failed attempt'
        if any(w[0] == 'insert' and w[2][0] == ABANDONED for w in s.flight) and decided(s.record):
            yield 'an attempt that wanted to fail is decided'


if __name__ == '__main__':
    main(Failures, lambda: suite(Failures))
