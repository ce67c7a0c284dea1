"""The command `qwarden`: one service a command, and the tools to work with a stack.

A module holds the commands of one group. A group with a name of its own is a `typer.Typer` called
`app` there, which is added here by its name; a command without one is a function. What is slow to
import, such as numpy and the engine, is imported where a command uses it.

Exit codes: 0 done, 1 the answer is no, 2 wrong use, 3 a dependency is missing, 130 Ctrl-C.
"""

from __future__ import annotations

import inspect
import sys

import typer

from qwarden.cli import (
    config,
    dlq,
    doctor,
    evaluate,
    explain,
    moderate,
    policy,
    policy_diff,
    records,
    rejudge,
    review,
    review_lead,
    review_replay,
    serving,
    stack,
    trial,
    verify,
)
from qwarden.cli.terminal import INTERRUPTED, MISSING, WRONG_USE, OutputLost, end
from qwarden.policy.document import DocumentError
from qwarden.settings import SettingsError
from qwarden.stack.errors import Interrupted, StackError

app = typer.Typer(
    name="qwarden",
    help="Content moderation at the speed of a message queue.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    serving.moderator,
    serving.streamer,
    serving.review_service,
    stack.up,
    stack.demo,
    stack.down,
    records.publish,
    records.tail,
    trial.trial,
    verify.verify,
    moderate.moderate,
    rejudge.rejudge,
    explain.explain,
    doctor.doctor,
):
    app.command()(command)
app.add_typer(records.topics_app, name="topics")
app.add_typer(config.app, name="config")
policy.app.command()(policy_diff.diff)
app.add_typer(policy.app, name="policy")
app.add_typer(dlq.app, name="dlq")
app.add_typer(evaluate.app, name="eval")
for name, daily in review_lead.COMMANDS.items():
    review.app.command(name)(daily)
review.app.command("replay")(review_replay.replay)
app.add_typer(review.app, name="review")


def _listed_whole(group: typer.Typer) -> None:
    """Has the lists of commands show the first sentence of each, over more lines where it is long:
    of itself typer breaks off in the middle of one."""
    for command in group.registered_commands:
        text = inspect.getdoc(command.callback) or ""
        command.short_help = " ".join(text.split("\n\n")[0].split()).partition(". ")[0].rstrip(".")
    for named in group.registered_groups:
        assert named.typer_instance is not None
        named.short_help = str(named.typer_instance.info.help).rstrip(".")
        _listed_whole(named.typer_instance)


_listed_whole(app)


def main() -> None:
    """Runs the command line; known failures end as a sentence and an exit code."""
    try:
        app()
    except (SettingsError, DocumentError) as error:
        end(WRONG_USE, str(error))
    except Interrupted as error:
        end(INTERRUPTED, str(error))
    except (StackError, OutputLost) as error:
        end(MISSING, str(error))
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
