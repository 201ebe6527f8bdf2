"""UD English EWT with the genre of each sentence, which its sent_id begins with: train.conllu, dev.conllu, test.conllu.

python prepare.py FOLDER_WITH_THE_CONLLU_FILES OUTPUT_FOLDER
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path


def main(source: Path, output: Path) -> None:
    """Write the three files, each sentence with one more comment."""
    output.mkdir(parents=True, exist_ok=True)
    for part in ("train", "dev", "test"):
        path = next(source.glob(f"en_ewt-ud-{part}.conllu*"))
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        with (output / f"{part}.conllu").open("w", encoding="utf-8") as written:
            for line in content.decode("utf-8").splitlines(keepends=True):
                written.write(line)
                if line.startswith("# sent_id = "):
                    written.write(f"# genre = {line.removeprefix('# sent_id = ').split('-')[0]}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
