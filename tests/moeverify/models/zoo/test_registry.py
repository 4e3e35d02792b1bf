"""Which types belong to the zoo."""

import subprocess
import sys

from moeverify.models.zoo.registry import is_zoo_type, zoo_types


def test_one_type_is_known_without_importing_all_others():
    program = (
        "import sys\nfrom moeverify.models.zoo.registry import is_zoo_type\nassert is_zoo_type('mixtral')\n"
        "loaded = [name for name in sys.modules if '.configuration_' in name and '.models.' in name]\n"
        "print(*{name.split('.')[2] for name in loaded})"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert "mixtral" in loaded
    assert loaded <= {"auto", "mixtral", "encoder_decoder"}


def test_types_are_asked_for_one_by_one():
    assert is_zoo_type("mixtral")
    assert not is_zoo_type("llama")
    assert not is_zoo_type("no such type")
    assert {"mixtral", "deepseek_v3"} <= set(zoo_types())
