"""The figures of the benchmark that are exact: commands of a request, and bytes of the change of one key."""

from bench.commands import COMMANDS, SIZES, Commands, costs, weigh

from .conftest import Connect


async def test_what_each_kind_of_request_sends(connect: Connect, driver: str) -> None:
    commands = Commands()
    assert await costs(connect(driver, listeners=[commands]), commands) == COMMANDS


async def test_a_changed_key_weighs_the_same_whatever_else_there_is(connect: Connect, driver: str) -> None:
    commands = Commands()
    collection = connect(driver, replica=True, listeners=[commands])
    weights = [await weigh(collection, commands, size) for size in SIZES]
    print(f"\n{driver}: {weights[0]}")
    assert len({weight.command for weight in weights}) == 1
    assert len({weight.oplog for weight in weights}) == 1
    assert weights[0].command <= 189
    assert weights[0].oplog <= 353
