"""The search that the models of this folder share: every state that can be reached in a bounded world, breadth first.

A model is a class whose objects are made from a world (a string) and a set of switches. Each switch breaks one rule.
    NAME        how the output calls it
    DESIGN      worlds in which the unbroken model must show no violation
    MUTATIONS   switch -> the world in which the broken model must show one
    LANDMARKS   situations that the searches of DESIGN must meet: a search that never meets them proves nothing
    start()     the first state: a NamedTuple of hashable values
    steps(s)    all (label, next state)
    violations(s), landmarks(s)     what is wrong, and what is worth meeting, in this state: strings
"""
import collections
import sys
import time

LIMIT = 3_000_000      # states; a search that is cut off here shows nothing, so it is an error


def search(model, trace=False):
    """Prints one line. Returns the violations, each with its first state, and all states reached."""
    begin, found, values, broken = time.time(), {}, {}, model.broken
    came = {model.start(): None}        # state -> (state before it, label of the step)
    queue = collections.deque(came)
    while queue and not (broken and found):
        s = queue.popleft()
        for what in model.violations(s):
            found.setdefault(what, s)
        for label, n in model.steps(s):
            if n not in came:
                n = n._make(values.setdefault(x, x) for x in n)        # equal parts of states are kept once
                came[n] = (s, label)
                queue.append(n)
        if len(came) > LIMIT:
            sys.exit(f'{model.NAME} {model.world} {",".join(sorted(broken))}: cut off at {LIMIT} states, which shows nothing')
    print(f'{model.NAME:<8}{model.world:<19}{",".join(sorted(broken)) or "the design":<15}{len(came):>8} states'
          f'{time.time() - begin:6.1f} s  ', 'found: ' + '; '.join(sorted(found)) if found else 'no violation', flush=True)
    for what, s in found.items() if trace else ():
        way = []
        while came[s]:
            s, label = came[s]
            way.append(' '.join(map(str, label)))
        print('   ' + what, *reversed(way), sep='\n      ')
    return found, came


def suite(kind):
    """The design in all its worlds, then every mutation. Returns what went wrong."""
    wrong, met = [], set()
    for world in kind.DESIGN:
        model = kind(world, frozenset())
        found, states = search(model)
        wrong += [f'{kind.NAME} {world}: {what}' for what in found]
        met.update(landmark for s in states for landmark in model.landmarks(s))
    wrong += [f'{kind.NAME}: never met: {landmark}' for landmark in kind.LANDMARKS if landmark not in met]
    for switch, world in kind.MUTATIONS.items():
        if not search(kind(world, frozenset([switch])))[0]:
            wrong.append(f'{kind.NAME} {world}: mutation {switch} was not found')
    return wrong


def main(kind, everything):
    """Without arguments, `everything`; with a world and perhaps switches, that search alone with its traces."""
    if len(sys.argv) > 1:
        switches = frozenset(filter(None, ','.join(sys.argv[2:]).split(',')))
        if switches - kind.MUTATIONS.keys():
            sys.exit(f'switches are {", ".join(kind.MUTATIONS)}')
        sys.exit(bool(search(kind(sys.argv[1], switches), trace=True)[0]))
    wrong = everything()
    sys.exit('FAILED\n' + '\n'.join(wrong) if wrong else print('all is well'))
