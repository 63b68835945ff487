"""Write what people chose in a run folder to a file that can be learned from."""

from pathlib import Path

from gen.errors import InputError
from gen.run_folder.choices import export_lines
from gen.run_folder.history import History
from gen.run_folder.saving import write


def export_choices(folder: Path, file: Path) -> int:
    """Write the choices of a run folder to a JSON Lines file and return how many they are.

    Raises InputError if there are none, RoomError if the file cannot be written.
    """
    if not (folder / "manifest.jsonl").is_file():
        raise InputError(f"{folder} is no run folder: name it with -o FOLDER")
    history = History(folder)
    history.refresh()
    lines = list(export_lines(history.choices(), file.parent))
    if not lines:
        raise InputError(f"nobody has chosen among the images of {folder} yet")
    write(file, "".join(f"{line}\n" for line in lines).encode())
    return len(lines)
