import pytest

from cleanpoke.errors import CleanPokeError, user_errors


def test_user_error_is_one_line_and_status_1(capsys):
    with pytest.raises(SystemExit) as raised, user_errors():
        raise CleanPokeError("port 8000 is taken:\n   choose another")
    assert raised.value.code == 1
    assert capsys.readouterr().err == "error: port 8000 is taken: choose another\n"


@pytest.mark.parametrize("bug", [ValueError("a bug"), FileNotFoundError("another")])
def test_bug_keeps_its_traceback(bug):
    with pytest.raises(type(bug)) as raised, user_errors():
        raise bug
    assert raised.value is bug


def test_interrupt_is_no_traceback(capsys):
    with pytest.raises(SystemExit) as raised, user_errors():
        raise KeyboardInterrupt
    assert raised.value.code == 130
    assert capsys.readouterr().err == "\ninterrupted\n"
