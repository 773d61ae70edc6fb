"""The commands themselves: what they print, where errors go, how they exit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from edge_runtime import __version__
from edge_runtime.cli.main import app
from edge_runtime.cli.printing import AnswerPrinter, describe_ending, describe_timings
from edge_runtime.devices.memory import format_bytes
from edge_runtime.devices.profile import list_profiles
from edge_runtime.engine.events import Delta, Finished, FinishReason, Timings
from edge_runtime.model.manifest import load_manifest, save_manifest

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    def invoke(*arguments: object, stdin: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)

    return invoke


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from edge_runtime.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('numpy', 'onnxruntime', 'zmq', 'cv2', 'PIL', 'tokenizers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for command in ("serve", "ask", "profiles", "inspect", "version"):
        assert command in done.stdout


def test_version(run: Run) -> None:
    result = run("version")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"edge-runtime {__version__}\n")
    assert run("--version").stdout == f"edge-runtime {__version__}\n"


def test_profiles_lists_all_and_marks_one(run: Run) -> None:
    lines = run("profiles").stdout.splitlines()
    names = [profile.name for profile in list_profiles()]
    rows = [line for line in lines if any(name in line.split()[:2] for name in names)]
    assert len(rows) == len(names)
    assert sum(row.split()[0] == "*" for row in rows) == 1


def test_doctor_names_the_processor_and_what_would_run_on_it(run: Run) -> None:
    result = run("doctor")
    assert result.exit_code == 0
    facts = dict(line.split(None, 1) for line in result.stdout.splitlines() if not line.startswith(" "))
    assert facts.keys() == {"processor", "memory", "profile", "onnxruntime", "kernels"}
    assert facts["profile"] in [profile.name for profile in list_profiles()]
    assert "CPUExecutionProvider" in facts["onnxruntime"]
    if not facts["kernels"].startswith("none: "):
        assert result.stdout.count("chosen: the best one") == 1


def test_inspect(run: Run, tiny_bundle: Path) -> None:
    result = run("inspect", tiny_bundle)
    assert result.exit_code == 0
    assert "4 layers" in result.stdout
    assert format_bytes(load_manifest(tiny_bundle).size_bytes) in result.stdout
    assert "makers' defaults" in result.stdout
    assert "SHA-256 of the manifest" not in result.stdout
    assert "SHA-256 of the manifest" in run("inspect", tiny_bundle, "--verify-hashes").stdout


def test_inspect_finds_a_damaged_file(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "copy"
    bundle.mkdir()
    for path in tiny_bundle.iterdir():
        (bundle / path.name).write_bytes(path.read_bytes())
    data = bytearray((bundle / "decoder.onnx.data").read_bytes())
    data[100] ^= 1
    (bundle / "decoder.onnx.data").write_bytes(data)
    assert run("inspect", bundle).exit_code == 0
    result = run("inspect", bundle, "--verify-hashes")
    assert result.exit_code == 2
    assert "decoder.onnx.data" in result.stderr


def test_ask_streams_and_json_holds_the_same(run: Run, tiny_bundle: Path) -> None:
    human = run("ask", tiny_bundle, "hello", "--max-tokens", 9)
    assert human.exit_code == 0
    plan, ending, timings = human.stderr.splitlines()
    assert plan.startswith("memory ")
    assert ending == "the answer was cut off after 9 tokens; --max-tokens N allows for more"
    assert "weights" in plan
    assert "first token" in timings
    quiet = run("ask", tiny_bundle, "hello", "--max-tokens", 9, "--quiet")
    assert (quiet.stdout, quiet.stderr) == (human.stdout, "")
    answer = json.loads(run("ask", tiny_bundle, "hello", "--max-tokens", 9, "--json").stdout)
    told = {
        "text",
        "reasoning",
        "token_ids",
        "prompt_tokens",
        "finish_reason",
        "timings",
        "thought_end",
        "thought_repeats",
    }
    assert answer.keys() == told
    assert human.stdout == answer["text"] + "\n"
    assert len(answer["token_ids"]) == answer["timings"]["output_tokens"] == 9
    assert answer["prompt_tokens"] == answer["timings"]["prompt_tokens"] > 0
    assert answer["finish_reason"] == "length"


def test_ask_about_images_and_from_stdin(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (256, 320, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    options = ("--max-tokens", 4, "--json")
    plain = json.loads(run("ask", tiny_bundle, "-", *options, stdin="hello\n").stdout)
    assert plain == json.loads(run("ask", tiny_bundle, "hello", *options).stdout) | {"timings": plain["timings"]}
    image = ("--image", tmp_path / "a.png")
    two = json.loads(run("ask", tiny_bundle, "hello", *image, *image, *options).stdout)
    assert two["timings"]["image_tokens"] == 2 * (256 // 32) * (320 // 32)


def test_options_of_an_answer(run: Run, tiny_bundle: Path) -> None:
    def ask(*options: object) -> dict[str, Any]:
        result = run("ask", tiny_bundle, "hello", "--max-tokens", 6, "--json", *options)
        assert result.exit_code == 0, result.stderr
        return dict(json.loads(result.stdout))

    greedy = ask()
    assert ask("--temperature", 5, "--top-k", 1)["token_ids"] == greedy["token_ids"]
    assert ask("--temperature", 5, "--top-p", 1e-6)["token_ids"] == greedy["token_ids"]
    assert ask("--temperature", 5, "--min-p", 1)["token_ids"] == greedy["token_ids"]
    for penalty in ("--repetition-penalty", "--presence-penalty", "--frequency-penalty"):
        penalized = ask(penalty, 100, "--max-tokens", 40)["token_ids"]
        assert len(set(penalized)) == len(penalized) == 40
    assert ask("--system", "Be brief.")["prompt_tokens"] > greedy["prompt_tokens"]
    end = greedy["text"][1:3]
    stopped = ask("--stop", end)
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == greedy["text"].partition(end)[0]
    logprobs = ask("--logprobs", 2)["logprobs"]
    assert [entry["token_id"] for entry in logprobs] == greedy["token_ids"]
    assert all(entry["top"][0] == [entry["token_id"], entry["logprob"]] for entry in logprobs)  # greedy: the likeliest


def test_max_pixels_shrinks_the_image(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    Image.new("RGB", (640, 480)).save(tmp_path / "a.png")
    options = ("--image", tmp_path / "a.png", "--max-tokens", 1, "--json")
    small = json.loads(run("ask", tiny_bundle, "hello", *options, "--max-pixels", 65_536).stdout)
    assert 0 < small["timings"]["image_tokens"] <= 65_536 // 32**2


def test_seed_makes_sampling_repeatable(run: Run, tiny_bundle: Path) -> None:
    def ids(seed: int) -> list[int]:
        arguments = ("ask", tiny_bundle, "hello", "--max-tokens", 12, "--temperature", 2, "--seed", seed, "--json")
        return list(json.loads(run(*arguments).stdout)["token_ids"])

    assert ids(1) == ids(1)
    assert ids(1) != ids(2)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere", "hi"], 2, "neither a folder nor an address"),
        (["{tmp}", "hi"], 2, "not a bundle"),
        (["tcp://10.0.0.1:1", "hi"], 2, "other machines"),
        (["{bundle}", "hi", "--image", "missing.png"], 2, "missing.png"),
        (["{bundle}", "hi", "--video", "missing.mp4"], 2, "missing.mp4"),
        (["{bundle}", "hi", "--temperature", "-1"], 2, "temperature"),
        (["{bundle}", "hi", "--max-tokens", "999999999", "--quiet"], 2, "context"),
        (["{bundle}", "hi", "--top-p", "2"], 2, "top_p"),
        (["{bundle}", "hi", "--max-pixels", "1"], 2, "max_pixels"),
        (["tcp://127.0.0.1:1", "hi", "--max-pixels", "65536"], 2, "max_pixels"),
        (["{bundle}", "hi", "--profile", "toaster"], 2, "no device profile"),
        (["tcp://127.0.0.1:1", "hi", "--profile", "cpu-generic"], 2, "profile is the server's choice"),
    ],
)
def test_errors_are_one_line(
    run: Run, tiny_bundle: Path, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    result = run("ask", *(argument.format(bundle=tiny_bundle, tmp=tmp_path) for argument in arguments))
    assert result.exit_code == code
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_no_server_is_the_other_exit_code(run: Run) -> None:
    result = run("ask", "tcp://127.0.0.1:1", "hi")
    assert result.exit_code == 1
    assert "edge-runtime serve" in result.stderr


def test_ctrl_c_cancels_and_is_no_traceback(tiny_bundle: Path) -> None:
    # Shells start what runs in the background with SIGINT ignored, and children inherit that.
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    program = [sys.executable, "-c", heed + "from edge_runtime.cli.main import app; app()"]
    arguments = ["ask", str(tiny_bundle), "hello", "--max-tokens", "400", "--quiet"]
    with subprocess.Popen([*program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        assert b"Traceback" not in process.stderr.read()
    assert process.returncode == 130


def test_a_bundle_that_was_never_compared_says_so(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle, tmp_path / "b")
    save_manifest(msgspec.structs.replace(load_manifest(tiny_bundle), parity=None), tmp_path / "b")
    assert "parity not measured" in run("ask", tmp_path / "b", "hello", "--max-tokens", 1).stderr
    assert "parity not measured" not in run("ask", tmp_path / "b", "hello", "--max-tokens", 1, "--quiet").stderr


def test_a_closed_pipe_is_no_traceback(tiny_bundle: Path) -> None:
    program = [sys.executable, "-c", "from edge_runtime.cli.main import app; app()"]
    arguments = ["ask", str(tiny_bundle), "hello", "--max-tokens", "400", "--quiet"]
    with subprocess.Popen([*program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, which is always full, on this system")
@pytest.mark.parametrize("command", [["ask", "{bundle}", "hi", "--max-tokens", "9", "--json"], ["inspect", "{bundle}"]])
def test_output_that_cannot_be_written_or_is_closed(tiny_bundle: Path, command: list[str]) -> None:
    program = [sys.executable, "-c", "from edge_runtime.cli.main import app; app()"]
    arguments = [*program, *(word.format(bundle=tiny_bundle) for word in command)]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(arguments, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: the output cannot be written: No space left on device\n"
    closed = subprocess.run(
        ["/bin/sh", "-c", '"$@" >&-', "sh", *arguments], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (closed.returncode, closed.stderr) == (0, "")


def test_what_a_terminal_cannot_show_is_no_traceback() -> None:
    program = "from edge_runtime.cli.main import app; import sys; sys.argv[1:] = ['profiles']; app()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    speaks = (
        "from edge_runtime.cli.outcome import reports_errors; import typer; reports_errors(lambda: print('\u00e9'))()"
    )
    for code in (program, speaks):
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_an_empty_question_is_refused(run: Run, tiny_bundle: Path, tmp_path: Path) -> None:
    for result in (run("ask", tiny_bundle, " "), run("ask", tiny_bundle, "-", stdin="\n")):
        assert result.exit_code == 2
        assert "the question is empty" in result.stderr
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    assert run("ask", tiny_bundle, "", "--image", tmp_path / "a.png", "--max-tokens", 1).exit_code == 0


def test_a_damaged_clip_leaves_the_terminal_to_us(tiny_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_bytes(b"\0\0\0\x18ftypisom" + bytes(200))
    program = [sys.executable, "-c", "from edge_runtime.cli.main import app; app()"]
    arguments = ["ask", str(tiny_bundle), "hi", "--video", str(tmp_path / "v.mp4")]
    done = subprocess.run([*program, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "is not a video that OpenCV can open" in line


def test_reasoning_is_set_apart_and_escape_sequences_stay_out(capsys: pytest.CaptureFixture[str]) -> None:
    printer = AnswerPrinter(is_terminal=True)
    printer.show(Delta("1", "hm", "reasoning", (1,)))
    printer.show(Delta("1", "red \x1b[31m", "answer", (2,)))
    printer.show(Finished("1", "", "stop", "", (1, 2), Timings()))
    out = capsys.readouterr().out
    assert out.index("hm") < out.index("\n\n") < out.index("red")
    assert "\x1b[31m" not in out


@pytest.mark.parametrize(
    ("reason", "num_tokens", "max_tokens", "words"),
    [
        ("stop", 9, 9, None),
        ("length", 9, 9, "--max-tokens N allows for more"),
        ("length", 9, 1024, "after 9 tokens: the context is full"),
        ("repetition", 9, 1024, "--no-stop-on-repetition"),
    ],
)
def test_why_an_answer_ended_in_words(
    reason: FinishReason, num_tokens: int, max_tokens: int, words: str | None
) -> None:
    told = describe_ending(Finished("1", "", reason, "", (1,) * num_tokens, Timings()), max_tokens)
    assert told is None if words is None else words in str(told)


def test_timings_in_words() -> None:
    timings = Timings(0.1, 3, 4, 1500, 200, 900, 1700, 2600, prompt_tokens=1210, image_tokens=1024, output_tokens=10)
    assert describe_timings(timings) == (
        "prompt 1,210 tokens (1,024 of images) | decode image 3 ms | resize 4 ms | vision 1.50 s | prefill 200 ms | "
        "first token 1.70 s | 10 tokens at 10.0/s | total 2.60 s"
    )


def test_what_scripts_outside_know_by_its_old_place(tiny_bundle: Path) -> None:
    from edge_runtime.cli.loading import PlannedBundle
    from edge_runtime.cli.pocket import checkpoint
    from edge_runtime.devices.memory import MemoryRequest
    from edge_runtime.engine.load import load_runner

    planned = PlannedBundle.open(tiny_bundle, "auto", MemoryRequest(max_chats=1))
    assert planned.model_info().model == planned.bundle.manifest.name
    assert load_runner(planned.bundle, planned.profile, planned.plan).kv_cache
    assert checkpoint().is_dir()
