"""
PixelMed's DicomSRValidator on many documents in one Java machine; what it says of each goes out as JSON.

    python pixelmed_judge.py JAR DOCUMENT...

It runs in a process of its own, as a Java machine takes over the signals of the one that it is in.
"""

import json
import sys

import jpype

UNLIMITED = [f"-Djdk.xml.xpath{name}=0" for name in ("ExprOpLimit", "TotalOpLimit", "ExprGrpLimit")]


def main() -> None:
    """Judge."""
    jar, *documents = sys.argv[1:]
    jpype.startJVM(*UNLIMITED, classpath=[jar])
    judge = jpype.JClass("com.pixelmed.validate.DicomSRValidator")()
    judge.setOptionCheckContentItemOrder(True)
    judge.setOptionCheckTemplateID(True)
    json.dump({path: str(judge.validate(path)).splitlines() for path in documents}, sys.stdout)


if __name__ == "__main__":
    main()
