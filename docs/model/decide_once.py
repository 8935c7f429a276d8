"""Exhaustive model of the commit, "decide once": it visits every reachable state of a bounded world.

usage: decide_once.py [WORLD [SWITCH,...]]   for instance `decide_once.py 1,2,2,0 cross`
Without arguments it runs everything: the design of the commit, of submit (submit.py) and of failures (failure.py) in
several worlds, then every mutation of them, which must be found. With a world it runs that search and prints a shortest
way to each violation. WORLD: attempts, dones of each (2, or 2+1 for two attempts), runs, duplicates[,rerun][,snap][,v2][,full].

The state
  store      key (run, N, file) -> content; f and g are files, d stands for contexts and outbox, which follow the same rules
  flight     writes that were issued and have not landed: (key, content, waiter); waiter None: the issuer gave up or died.
             They land at any time, in any order, or never. The key (RECORD, run) is the insert-if-absent of `decide`.
  records    per run: None, ABANDONED, or the decided proposal
  insights, bus, published   insight of X; visible events (proposal, 1 names f, 2 names g); the `published` document
  read       the records as gc last read them (in worlds with `snap`, and for the switches where it matters)
  attempts   what each process knows: its step, its run, its dones in that run, its last proposal

The steps, after the states of a session. Staging writes nothing, so a start leads to Ready at once.
  New · Ready
  Committing, uploading             the blobs are in flight
  Committing, storing documents     the blobs are acknowledged; contexts and outbox are in flight
  Deciding                          journal `deciding`; `decide` is in flight
  Deciding, unknown                 `decide` was given up and may still land; Ready and this one answered 503
  Publishing                        the attempt knows a decided record; what follows is `roll_forward`, below
  Done                              answered 200 without `roll_forward`; only mutations do this
  Failed                            no step follows; also an attempt that ran out of the runs of this world
  Beaten                            the run has a record that the attempt has not read yet (only after `fold`)

What is not a process of its own, and why nothing is lost by it
  Crash: a process that never steps again. Restart on the same disk: a clone whose original never steps again. Lost disk: a
  new process. Lost answer: a timeout before the landing. Pause: a delayed landing.
  After the decision every step depends only on the record, which never changes, and on earlier acknowledged steps: the
  winner, a beaten attempt, `recover` and an idle worker are one anonymous `roll_forward` that may step at any time.
  `/fail`, the lease, `--give-up` and gc insert the same `abandoned`: one anonymous `abandon`, whenever there is no record.
  A delete that lands late is a delete issued late. A loser's deletes are a subset of gc's: same rule, own N only.
  A consumer reads at any time, also slowly: so every state from the event's on must show its context and blobs intact.
  No dead end: in every state all processes die, the writes in flight are lost, then one idle worker and one gc run: all
  must be well.
  `fold` (without `full` and without switches) drops keys and writes that nobody can name any more, since no step reads
  them, and renames decided proposals. The suite checks in two worlds that it reaches exactly the folded full states.
"""
from typing import NamedTuple

from failure import Failures
from search import main, search, suite
from submit import Submits

NEW, READY, PUBLISHING, DONE, FAILED, BEATEN = 'New', 'Ready', 'Publishing', 'Done', 'Failed', 'Beaten'
UPLOADING, STORING = 'Committing, uploading', 'Committing, storing documents'
DECIDING, UNKNOWN = 'Deciding', 'Deciding, unknown'
RECORD, ABANDONED = 'record', 'abandoned'
SHARED = -1                     # in place of a run: a key of release 0.1, shared by attempts and never deleted
CROSS = {'cross', 'cross_run_gc'}


class Proposal(NamedTuple):
    run: int
    n: int                      # unique everywhere, unless a switch breaks that
    f_key: tuple                # f did not change since an earlier proposal: its key may be that proposal's
    f: int                      # content of f
    g: int                      # content of g, which every `done` changes

    @property
    def documents(self): return (self.run, self.n, 'd') if self.n >= 0 else (SHARED, 0, 'd')

    @property
    def g_key(self): return self.documents[:2] + ('g',)


class Attempt(NamedTuple):
    step: str
    run: int
    dones: int
    proposal: Proposal


class State(NamedTuple):
    store: frozenset
    flight: frozenset
    records: tuple
    insights: tuple
    bus: frozenset
    published: tuple
    read: tuple
    attempts: tuple
    duplicates: int


def decided(record): return isinstance(record, Proposal)
def named(records): return {k for r in records if decided(r) for k in (r.documents, r.f_key, r.g_key)}
def put(store, key, content): return frozenset([x for x in store if x[0] != key] + [(key, content)])
def at(values, i, value): return values[:i] + (value,) + values[i + 1:]


class Commit:
    NAME = 'commit'
    DESIGN = ('2,1,2,1,rerun,snap', '2,2,2,1', '3,1,2,0,rerun', '3,2+1+1,1,0', '2,1,1,0,v2')
    MUTATIONS = dict(
        shared='2,1,1,0',            # keys and ids are shared by attempts (release 0.1)
        counter='2,1,1,0',           # N is a counter on the disk, not unique everywhere
        resume='2,2,1,0',            # a commit resumed from a journal in `committing` keeps its N; outputs may have changed
        unchecked='1,2,1,0',         # a reused key is not looked for in the store
        early='1,1,1,0',             # the decision does not wait for the documents
        overwrite='2,1,1,0',         # the record is put, not inserted
        journal='2,1,1,0',           # a beaten attempt publishes its own proposal from memory or journal
        owner='1,2,1,0',             # the winner is known by attempt, not by N
        insight_first='2,1,1,0',     # the insight of X is written before the decision
        cursor_first='1,1,1,0',      # `published` is written before the events are accepted
        sweep='1,2,1,0',             # publishing sweeps the prefix of the run, except the winner's N
        loser_all='2,2,1,0',         # a loser deletes everything under its N, also what the record names
        fail_deletes='2,1,1,0',      # an attempt that fails deletes its uploads although no record is stored
        gc_first='1,1,1,0',          # gc deletes, then inserts `abandoned`
        gc_open='2,1,2,0',           # gc also deletes keys of runs that are still open ("what no record of X names")
        cross='1,2,2,0',             # a session that goes on in the next run reuses keys of the abandoned one
        cross_run_gc='1,2,2,0',      # the same, and gc compares with the record of the key's own run only
        gc_lazy='1,1,1,0',           # gc leaves abandoned runs alone: a leak
        beaten_acks='2,1,1,0',       # a beaten attempt answers 200 at once, without rolling forward
        abandoned_acks='1,1,1,0',    # an attempt beaten by `abandoned` answers 200 like any beaten one
        start_blind='2,1,2,0',       # --rerun=1 although run 0 has no record
        v2_open='2,1,1,0,v2',        # a new attempt while a journal of 0.1 in `publishing` exists (forbidden: drain first)
        v2_held='2,1,1,0,v2',        # a put that 0.1 gave up lands after the upgrade (likewise)
        v2_abandon='2,1,1,0,v2')     # a journal of 0.1 in `publishing` is given up, or gc closes its run
    LANDMARKS = ('a decided record with a reused key', 'run 1 decided after run 0 was decided',
                 'run 1 decided after run 0 was abandoned', 'a clone of the disk holds the same N',
                 'a decision in flight that nobody waits for')

    def __init__(self, world, broken):
        attempts, dones, runs, duplicates, *options = world.split(',')
        self.world, self.broken = world, broken
        self.count, self.runs, self.duplicates = int(attempts), int(runs), int(duplicates)
        self.dones = [int(x) for x in dones.split('+')] if '+' in dones else [int(dones)] * self.count
        self.rerun, self.v2, self.folded = 'rerun' in options, 'v2' in options, 'full' not in options and not broken
        self.snap = 'snap' in options or bool((CROSS | {'gc_open'}) & broken)
        self.known = {}         # violations by the parts of a state that they depend on

    def start(self):
        store, bus, none = frozenset(), frozenset(), (None,) * self.runs
        attempts = (Attempt(NEW, 0, 0, None),) * self.count
        if self.v2:             # a journal of version 2 in `publishing`: old ids and keys, one event is out already
            p = Proposal(0, -1, (SHARED, 0, 'f'), -1, -1)
            store, bus = frozenset([(p.f_key, -1), (p.g_key, -1), (p.documents, p)]), frozenset([(p, 1)])
            attempts = at(attempts, 0, Attempt(UNKNOWN, 0, 0, p))
        held = frozenset([((SHARED, 0, 'g'), -2, None)] if 'v2_held' in self.broken else [])
        return State(store, held, none, none, bus, (False,) * self.runs, None, attempts, self.duplicates)

    # What an attempt does

    def propose(self, s, p, run, dones, before):
        """A `done` that starts a commit: new N, journal, presence check of the unchanged file f, uploads in flight."""
        broken, content = self.broken, run * 64 + p * 8 + dones
        n = dones if 'counter' in broken else -1 if 'shared' in broken else p * 8 + dones
        if 'resume' in broken and before and before.n // 8 != p:
            n = before.n
        own = Proposal(run, n, None, before.f if before else content, content)
        same = before and (before.run == run or CROSS & broken) and ((before.f_key, own.f) in s.store or 'unchecked' in broken)
        own = own._replace(f_key=before.f_key if same else own.documents[:2] + ('f',))
        puts = {(own.g_key, own.g, p)} | (set() if same else {(own.f_key, own.f, p)})
        if 'insight_first' in broken:
            s = s._replace(insights=at(s.insights, run, content))
        return s._replace(flight=s.flight | puts, attempts=at(s.attempts, p, Attempt(UPLOADING, run, dones + 1, own)))

    def acknowledged(self, s, p):
        """The last write that attempt p waited for was acknowledged: it issues the next one."""
        step, run, dones, own = s.attempts[p]
        documents, decide = (own.documents, own, None if 'early' in self.broken else p), ((RECORD, run), own, p)
        issued = {documents} if step == UPLOADING else {decide}
        if 'early' in self.broken:
            issued |= {decide}
        step = DECIDING if step == STORING or 'early' in self.broken else STORING
        return s._replace(flight=s.flight | issued, attempts=at(s.attempts, p, Attempt(step, run, dones, own)))

    def consult(self, s, p, run, dones, own, deciding):
        """A start, or the answer of `decide`: the record first; an abandoned run is no outcome, the next run is tried."""
        broken = self.broken
        def becomes(step, run, dones=0, own=None): return s._replace(attempts=at(s.attempts, p, Attempt(step, run, dones, own)))
        while run < self.runs and s.records[run] == ABANDONED and not ('abandoned_acks' in broken and deciding):
            run, dones, deciding, own = run + 1, 0, False, own if CROSS & broken else None
        if run == self.runs:
            return becomes(FAILED, run - 1)
        record = s.records[run]
        if record is not None:
            mine = decided(record) and own and record.n == own.n
            if record == ABANDONED or 'beaten_acks' in broken and deciding and not mine:
                return becomes(DONE, run)
            if 'loser_all' in broken and own and not mine:
                s = s._replace(store=frozenset(x for x in s.store if x[0][1] not in (own.n, own.f_key[1])))
            if own and ('journal' in broken and deciding or 'owner' in broken and record.n // 8 == p):
                s = s._replace(bus=s.bus | {(own, 1)})
            return becomes(PUBLISHING, run)
        if deciding:
            return becomes(DECIDING, run, dones, own)._replace(flight=s.flight | {((RECORD, run), own, p)})
        return becomes(READY, run, dones, own) if own else self.propose(s, p, run, dones, None)

    def attempt(self, s):
        for p, (step, run, dones, own) in enumerate(s.attempts):
            if step == NEW:
                if p and s.attempts[p - 1].step == NEW:
                    break                                                   # they are alike: they begin in order
                if not self.v2 or 'v2_open' in self.broken:
                    yield ('start', p), self.consult(s, p, 0, 0, None, False)
                for q, other in enumerate(s.attempts):
                    if other.proposal:
                        deciding = other.step in (DECIDING, UNKNOWN)
                        yield ('start', p, 'from the journal of', q), self.consult(s, p, other.run, 0, other.proposal, deciding)
                for r in range(1, self.runs):
                    if self.rerun and s.published[r - 1] or 'start_blind' in self.broken:
                        yield ('rerun', p), self.consult(s, p, r, 0, None, False)
            elif step in (UPLOADING, STORING, DECIDING):                    # 503: what is given up may still land
                flight = frozenset((k, v, None if w == p else w) for k, v, w in s.flight)
                late = Attempt(UNKNOWN if step == DECIDING else READY, run, dones, own)
                yield ('timeout', p), s._replace(flight=flight, attempts=at(s.attempts, p, late))
                if 'fail_deletes' in self.broken:
                    rest = frozenset(x for x in s.store if x[0][1] != own.n)
                    failed = Attempt(FAILED, run, 0, None)
                    yield ('fail', p), s._replace(store=rest, flight=flight, attempts=at(s.attempts, p, failed))
            elif step == BEATEN:
                yield ('goes on', p), self.consult(s, p, run, 0, None, False)
            elif step == UNKNOWN:
                yield ('decide the same N again', p), self.consult(s, p, run, dones, own, True)
            if step in (READY, UNKNOWN) and dones < self.dones[p] and own.n >= 0:
                yield ('done, new N', p), self.propose(s, p, run, dones, own)

    # What the stores and everybody else do

    def land(self, s):
        for write in s.flight:
            key, content, p = write
            if key[0] == RECORD:                                            # decide: insert if absent, return what is stored
                run, records = key[1], s.records
                if records[run] is None or 'overwrite' in self.broken:
                    records = at(records, run, content)
                n = s._replace(flight=s.flight - {write}, records=records)
                if p is not None:
                    n = self.consult(n, p, run, n.attempts[p].dones, n.attempts[p].proposal, True)
                yield ('decide lands', content), n
                continue
            for copy in (0, 1) if s.duplicates and p is not None else (0,):     # copy: sent twice, one of them is held
                flight = s.flight - {write} | ({(key, content, None)} if copy else set())
                n = s._replace(store=put(s.store, key, content), flight=flight, duplicates=s.duplicates - copy)
                if p is not None and not any(w == p for _, _, w in flight):
                    n = self.acknowledged(n, p)
                yield ('put lands', key, 'a copy is held' * copy), n

    def roll_forward(self, s):
        """Insight, publish, `published`: by anyone, from the store alone."""
        for run, p in enumerate(s.records):
            if not decided(p) or s.published[run] or (p.documents, p) not in s.store:
                continue
            if 'cursor_first' in self.broken:
                yield ('published', run), s._replace(published=at(s.published, run, True))
            if s.insights[run] is None:
                yield ('insight', run), s._replace(insights=at(s.insights, run, p.g))
            elif (p, 1) not in s.bus:
                yield ('publish 1 of', p), s._replace(bus=s.bus | {(p, 1)})
            else:
                kept = frozenset(x for x in s.store if x[0][0] != run or x[0][1] == p.n) if 'sweep' in self.broken else s.store
                yield ('publish 2 of', p), s._replace(store=kept, bus=s.bus | {(p, 2)}, published=at(s.published, run, True))

    def abandon(self, s):
        """By gc, /fail, the lease or --give-up."""
        if None in s.records and (not self.v2 or 'v2_abandon' in self.broken):
            run = s.records.index(None)
            yield ('abandon', run), s._replace(records=at(s.records, run, ABANDONED))

    def deletable(self, key, records):
        """The rule of gc: a private key of a run that has a record, which no record of the execution names."""
        if 'cross_run_gc' in self.broken:
            records = tuple(r if run == key[0] else r and ABANDONED for run, r in enumerate(records))
        if key[0] == SHARED or 'gc_lazy' in self.broken and records[key[0]] == ABANDONED:
            return False
        closed = records[key[0]] is not None or 'gc_first' in self.broken or 'gc_open' in self.broken and any(records)
        return closed and key not in named(records)

    def gc(self, s):
        if self.snap and s.read != s.records and any(s.records):
            yield ('gc reads the records',), s._replace(read=s.records)
        records = s.read if self.snap else s.records
        for x in s.store if records else ():
            if self.deletable(x[0], records):
                yield ('gc deletes', x[0]), s._replace(store=s.store - {x})

    def steps(self, s):
        for step in (self.land, self.attempt, self.roll_forward, self.abandon, self.gc):
            for label, n in step(s):
                yield label, self.fold(n) if self.folded else n

    # What must hold

    def violations(self, s):
        facts = (s.store, *s[2:6])
        if facts not in self.known:
            self.known[facts] = self.wrong(*facts)
        if any(a.step == DONE and not s.published[a.run] for a in s.attempts):
            yield 'answered 200, not published'
        yield from self.known[facts]

    def wrong(self, store, records, insights, bus, published):
        content, bad = dict(store), set()

        def whole(p, what):
            if content.get(p.documents) != p:
                bad.add(what + ': its context or outbox is missing or changed')
            if content.get(p.f_key) != p.f or content.get(p.g_key) != p.g:
                bad.add(what + ': a blob is missing or changed')
        for p, _ in bus:
            if records[p.run] != p and not (p.n < 0 and records[p.run] is None):
                bad.add('visible event of a proposal that is not decided')
            if any(q.run == p.run and q != p for q, _ in bus):
                bad.add('visible events of two proposals of one run')
            whole(p, 'visible event')
        for run, p in enumerate(records):
            if decided(p):
                whole(p, 'decided record')
                if run and records[run - 1] is None:
                    bad.add('a run has an outcome before the run before it is closed')
            if insights[run] is not None and p and (p == ABANDONED or insights[run] != p.g):
                bad.add('insight is not that of the decided proposal')
        for run, p in enumerate(records):                   # all processes die here; an idle worker knows only the records
            rolls = decided(p) and not published[run] and content.get(p.documents) == p
            if decided(p) and not rolls and not ({(p, 1), (p, 2)} <= bus and insights[run] == p.g):
                bad.add('dead end: never published')
        closed = tuple(r or ABANDONED for r in records)     # then gc runs to its end
        if any(k[0] != SHARED and k not in named(closed) and not self.deletable(k, closed) for k in content):
            bad.add('leak after gc')
        return bad

    def landmarks(self, s):
        if any(decided(r) and r.f_key[1] != r.n for r in s.records):
            yield 'a decided record with a reused key'
        if self.runs > 1 and decided(s.records[1]):
            yield 'run 1 decided after run 0 was ' + ('decided' if decided(s.records[0]) else 'abandoned')
        held = [a.proposal.n for a in s.attempts if a.proposal]
        if len(held) > len(set(held)):
            yield 'a clone of the disk holds the same N'
        if any(key[0] == RECORD and p is None for key, _, p in s.flight):
            yield 'a decision in flight that nobody waits for'

    def fold(self, s):
        store, flight, records, insights, bus, published, read, attempts, duplicates = s
        ids, is_open = {}, [r is None for r in records]
        for r in records:                                   # (run, N or content) of a decided proposal -> a small number
            if decided(r) and r.n >= 0:
                for x in (r.n, r.f_key[1], r.f, r.g):
                    ids.setdefault((r.run, x), sum(k[0] == r.run for k in ids))
        attempts = tuple(Attempt(FAILED, 0, 0, None) if a.step in (PUBLISHING, FAILED) else
                         a if a.step == NEW or is_open[a.run] else Attempt(BEATEN, a.run, 0, None) for a in attempts)
        deciding = [w[1] for w in flight if w[0][0] == RECORD and is_open[w[0][1]]]
        live = named(records) | named([a.proposal for a in attempts]) | named(deciding)
        flight = frozenset(w for w in flight if (is_open[w[0][1]] if w[0][0] == RECORD else is_open[w[0][0]] and w[0] in live and
                                                 not (w[2] is None and w[:2] in store)))

        def small(run, x): return ids.get((run, x), x)
        def renamed(p):
            if not decided(p) or p[:2] not in ids:
                return p
            r = p.run
            return Proposal(r, small(r, p.n), (r, small(r, p.f_key[1]), 'f'), small(r, p.f), small(r, p.g))
        store = frozenset(((k[0], small(*k[:2]), k[2]), renamed(v) if k[2] == 'd' else small(k[0], v)) for k, v in store if k in live)
        return State(store, flight, tuple(map(renamed, records)), tuple(small(r, i) for r, i in enumerate(insights)),
                     frozenset((renamed(p), e) for p, e in bus), published, read and tuple(map(renamed, read)),
                     attempts, duplicates)


def fold_is_exact():
    """The folded search reaches exactly the folded states of the full one, which shows no violation either."""
    wrong = []
    for world in ('1,2,2,0', '2,1,1,1'):
        folding = Commit(world, frozenset())
        found, full = search(Commit(world + ',full', frozenset()))
        folded_found, folded = search(folding)
        wrong += [f'commit {world}: {what}' for what in found | folded_found]
        if {folding.fold(s) for s in full} != set(folded):
            wrong.append(f'commit {world}: the folded search is not exact')
    return wrong


if __name__ == '__main__':
    main(Commit, lambda: suite(Submits) + suite(Failures) + suite(Commit) + fold_is_exact())
