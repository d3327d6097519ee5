import sepclr_med.progress as progress


def test_a_line_of_progress_says_how_long_it_will_still_take(monkeypatch, capsys):
    clock = iter([0.0, 20.0, 40.0, 60.0, 80.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.report_progress("training", total=10, done=6) as advance:
        for _ in range(4):
            advance("loss 1.0")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "training: 7/10, loss 1.0, 1 min 0 s left"
    assert lines[-1] == "training: 10/10, loss 1.0"
