import pytest

from moeverify.errors import UsageError
from moeverify.models.roles import Roles
from moeverify.models.roles_file import roles_from


def test_options_override_the_file(tmp_path):
    file = tmp_path / "roles.toml"
    file.write_text('[roles]\nexperts = "^bank$"\nrouters = "^chooser$"\n')
    assert roles_from(file) == Roles(experts="^bank$", routers="^chooser$")
    assert roles_from(file, experts="^cells$").experts == "^cells$"
    assert roles_from() is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("experts = 'x'", r"no \[roles\] table"),
        ("[roles]\nexpert = 'x'", "not 'expert'"),
        ("[roles]\nexperts = 3", "regular expression in quotes"),
        ("[roles", "not valid TOML"),
    ],
)
def test_a_wrong_file_of_roles_is_refused_with_its_cause(tmp_path, text, message):
    file = tmp_path / "roles.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=message):
        roles_from(file)


def test_a_missing_file_of_roles_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        roles_from(tmp_path / "none.toml")
