"""Plans measured on a task."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from control_world import LABELS, LENGTH, SIGNS, classifier, masked_network, write_tokenizer

from schedlab.denoisers import checkpoint
from schedlab.deploy.measure import measure_plan
from schedlab.deploy.runtime import load_plan
from schedlab.plan import DenoiserRef, FileRef, ModelSchedule, Plan, PlanFile, PolicySpec
from schedlab.plan.guidance import Attribute, Guidance
from schedlab.plan.task_config import TaskConfig
from schedlab.text import Tokenizer


def guided_file(folder: Path, scale: float) -> PlanFile:
    """A plan that is steered to the first label, and its models in `folder`."""
    write_tokenizer(folder / "signs.json")
    network, guide = masked_network(4), classifier(7)
    checkpoint.save(folder / "masked", network, {}, precision="float32")
    checkpoint.save(folder / "guide", guide, {}, precision="float32")
    plan = Plan(
        length=LENGTH,
        model_schedule=ModelSchedule.parse("H3"),
        policy=PolicySpec(name="tta_constant"),
        guidance=Guidance(
            attributes=[Attribute(classifier="topic", label=LABELS[0])], scale=scale, iterations=1
        ),
    )
    heavy = DenoiserRef(
        location=str(folder / "masked"), sha256=network.fingerprint, num_blocks=1,
        num_parameters=1, flops_per_forward=1.0,
    )  # fmt: skip
    return PlanFile(
        plan=plan,
        digest=plan.digest,
        denoisers={"H": heavy},
        tokenizer=FileRef(
            location=str(folder / "signs.json"), sha256=Tokenizer.of_signs(SIGNS).fingerprint
        ),
        precision="float32",
        classifiers={"topic": FileRef(location=str(folder / "guide"), sha256=guide.fingerprint)},
    )


def test_a_guided_plan_is_measured_on_a_task_with_its_guides(tmp_path: Path) -> None:
    items = [{"prompt": prompt, "answer": "c"} for prompt in ("ab", "xy", "m0", "q7")]
    source = tmp_path / "items.jsonl"
    source.write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
    task = TaskConfig(source=str(source))
    found = {
        scale: measure_plan(
            load_plan(guided_file(tmp_path, scale), device="cpu"),
            task,
            4,
            store=tmp_path / "store",
        )
        for scale in (0.0, 300.0)
    }
    for one in found.values():
        assert {"accuracy", "guide_topic"} <= set(one.estimates)
        texts = [Tokenizer.of_signs(SIGNS).decode(row) for row in one.tokens_SL.tolist()]
        assert [text[:2] for text in texts] == [item["prompt"] for item in items]
    assert (found[0.0].tokens_SL != found[300.0].tokens_SL).any()
