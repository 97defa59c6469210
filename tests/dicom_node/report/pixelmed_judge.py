"""
PixelMed's DicomSRValidator on many documents in one Java machine; what it says of each goes out as JSON.

    python pixelmed_judge.py JAR DOCUMENT...

It runs in a process of its own, as a Java machine takes over the signals of the one that it is in.
"""

import json
import sys
from typing import Any

import jpype

UNLIMITED = [f"-Djdk.xml.xpath{name}=0" for name in ("ExprOpLimit", "TotalOpLimit", "ExprGrpLimit")]
BRIEF = ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]  # it lives for seconds


def main() -> None:
    """Judge."""
    jar, *documents = sys.argv[1:]
    jpype.startJVM(*UNLIMITED, *BRIEF, classpath=[jar])
    judge = jpype.JClass("com.pixelmed.validate.DicomSRValidator")()
    judge.setOptionCheckContentItemOrder(True)
    judge.setOptionCheckTemplateID(True)
    read_codes_once(judge)
    json.dump({path: str(judge.validate(path)).splitlines() for path in documents}, sys.stdout)


def read_codes_once(judge: Any) -> None:
    """
    The rules open the table of all context groups at each code. It comes without an address, so the processor
    doesn't know it again and parses it each time, 0.7 MB of XML; here it has one, and is read once a document.
    """
    source = jpype.JClass("javax.xml.transform.stream.StreamSource")

    @jpype.JImplements("javax.xml.transform.URIResolver")
    class Named:
        @jpype.JOverride
        def resolve(self, name: Any, _: Any) -> Any:
            return source(judge.getClass().getResourceAsStream(name), name)

    rules = judge.getClass().getDeclaredField("transformerPass1")
    rules.setAccessible(True)
    rules.get(judge).setURIResolver(Named())


if __name__ == "__main__":
    main()
