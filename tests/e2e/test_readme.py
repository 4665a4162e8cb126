"""The README's first conversation works as it is printed."""

import asyncio
import re
from asyncio.subprocess import PIPE, STDOUT, Process
from pathlib import Path

from tests.contracts.park import Park, open_park
from tests.support import ROOT, wait_until

ACCOUNT_ID = re.compile(r'"_id":"[0-9a-f]{24}"')
END = "--- end of this answer"


class Shipped(Park):
    """A park with the people of the shipped configuration alone."""

    async def admit_many(self) -> None:
        """Nobody."""


def conversation() -> list[tuple[str, str]]:
    """The commands of the README's console blocks, each with the output that is printed below it."""
    blocks = re.findall(r"```console\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    return re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", "".join(blocks), re.MULTILINE)


async def answer(shell: Process, command: str) -> str:
    """What the shell prints for this command, with account ids made equal."""
    assert shell.stdin
    assert shell.stdout
    shell.stdin.write(f"{command}\necho; echo '{END}'\n".encode())
    printed = await shell.stdout.readuntil(f"{END}\n".encode())
    return same(printed.decode().removesuffix(f"{END}\n"))


def same(text: str) -> str:
    """The text without what differs from run to run."""
    return ACCOUNT_ID.sub('"_id":"..."', text).strip()


async def test_the_first_conversation_of_the_readme_answers_as_printed(tmp_path: Path) -> None:
    park = await open_park(tmp_path, form="readme", config=ROOT / "callboard.toml", kind=Shipped)
    shell = await asyncio.create_subprocess_exec("bash", cwd=ROOT, stdin=PIPE, stdout=PIPE, stderr=STDOUT)
    try:
        steps = conversation()
        assert sum("/log?" in command for command, _ in steps) == 2
        for command, printed in steps:
            here = command.replace("http://127.0.0.1:8080", park.url)
            here = here.replace(".callboard/", f"{park.data_dir}/").replace(
                "callboard verify", f"callboard verify --data-dir {park.data_dir}"
            )
            answers: list[str] = []

            async def is_as_printed(here: str = here, printed: str = printed) -> bool:
                answers.append(await answer(shell, here))  # noqa: B023 - awaited within the loop's turn
                return answers[-1] == same(printed)  # noqa: B023 - likewise

            if "/profile" in command:  # which shows points and certifications a moment later
                await wait_until(is_as_printed)
            else:
                assert await is_as_printed(), (command, answers)
    finally:
        shell.terminate()
        await shell.wait()
        await park.stop()
