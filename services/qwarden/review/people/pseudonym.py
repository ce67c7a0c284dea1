"""What colleagues and records call somebody: drawn, so that it tells nothing of the name. Pure."""

from __future__ import annotations

from random import Random

_MANNERS = """
    amber ample azure brave breezy bright brisk calm candid clear clever cosy crisp deft eager early
    easy even fair fleet fond fresh gentle glad grand handy hardy jolly keen kind lively lucky
    mellow merry mild neat nimble noble patient plain polite prompt proud quick quiet ready rosy
    sage sandy serene sharp silver smart snowy sober steady still sunny swift tidy true vivid warm
    wise witty
""".split()  # noqa: SIM905
_ANIMALS = """
    avocet badger bee bison bittern bream carp chamois cicada crane cricket curlew deer dolphin
    dormouse dove dunlin eider elk falcon finch fox gannet gecko grebe hare hawk hedgehog heron
    hoopoe ibex ibis jay kestrel kite koala lapwing lark lemur linnet lynx magpie marmot marten
    merlin moose newt oriole osprey otter owl panda perch pika pipit plover puffin quail raven robin
    salmon seal shrew siskin sparrow squirrel stork swallow swan swift tapir teal tern thrush trout
    turtle wagtail wren yak
""".split()  # noqa: SIM905


def drawn(random: Random) -> str:
    """One of over 400,000, such as `calm-heron-27`."""
    return f"{random.choice(_MANNERS)}-{random.choice(_ANIMALS)}-{random.randint(10, 99)}"
