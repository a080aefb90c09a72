"""How encoders are carried out: less memory or other code, the same numbers."""

import copy
import warnings

import pytest
import torch
from peak_memory import peak_bytes

from salmu_core import FitOptions, Pairs
from salmu_core.builtin.toy import Toy
from salmu_core.data.pairs import Batch
from salmu_core.data.pixels import PairStore
from salmu_core.errors import BadOptions
from salmu_core.losses import contrastive_loss, pair_cosine
from salmu_core.runner import execution
from salmu_core.runner.accelerate_setup import open_accelerator
from salmu_core.runner.budget import SampleMeter
from salmu_core.runner.execution import Execution, carried_out, compiler_problem
from salmu_core.runner.fit import fit
from salmu_core.runner.fit_job import Fit


def _contrast(model, teacher, batch):
    return contrastive_loss(*model(batch.retain)) - 0.5 * contrastive_loss(*model(batch.forget))


def _one_tower_and_raw_inputs(model, teacher, batch):
    return (model.encode_image(batch.forget.image) * model.encode_text(batch.retain.text)).sum(dim=-1).square().mean()


def _distil(model, teacher, batch):
    with torch.no_grad():
        target = teacher(batch.forget)
    student = model(batch.forget)
    return (student.image @ student.text.T - target.image @ target.text.T).square().mean() + student.image.sum() * 1e-2


def _twice_through_one_graph(model, teacher, batch):
    """The gradient of one term scales the other: the graph is walked twice."""
    image, text, _ = model(batch.forget)
    first = pair_cosine(image, text).mean()
    (direction,) = torch.autograd.grad(first, [model.clip.visual.proj], retain_graph=True)
    return first * direction.norm().detach() + contrastive_loss(image, text, 10.0)


def _batch(benchmark, model, rows=13):
    return Batch(
        {
            role: Pairs(PairStore(benchmark.split_for(role), model.processor), torch.arange(rows).flip(0))
            for role in ("forget", "retain")
        }
    )


def _gradients(loss, how, trained="both"):
    benchmark = Toy()
    model = benchmark.load_model("compromised")
    chosen = {id(parameter) for parameter in model.tower_parameters(trained)}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in chosen)
    with carried_out(model, how):
        teacher = model.frozen_copy()
        with torch.no_grad():
            model.clip.visual.proj.mul_(torch.linspace(0.5, 2, 16))  # teacher and student differ by more than rounding
        value = loss(model, teacher, _batch(benchmark, model))
        value.backward()
    return value.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("loss", [_contrast, _one_tower_and_raw_inputs, _distil, _twice_through_one_graph])
@pytest.mark.parametrize(
    "how", [Execution(micro_batch=5), Execution(checkpoint_activations=True), Execution(1, checkpoint_activations=True)]
)
def test_values_and_gradients_are_those_of_the_plain_whole_batch(loss, how):
    expected, gradients = _gradients(loss, Execution())
    value, found = _gradients(loss, how)
    assert value == pytest.approx(expected, rel=1e-5)
    assert found.keys() == gradients.keys()
    assert len(found) > 20
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item() + 1e-8)


def test_only_the_trained_tower_gets_gradients_in_micro_batches():
    expected, gradients = _gradients(_contrast, Execution(), "text")
    value, found = _gradients(_contrast, Execution(micro_batch=4), "text")
    assert value == pytest.approx(expected, rel=1e-5)
    assert set(found) == set(gradients) == {name for name in found if not name.startswith("clip.visual.")}


def test_a_fit_in_micro_batches_ends_at_the_weights_of_a_plain_one():
    def fitted(how):
        benchmark = Toy()
        model = benchmark.load_model("compromised")
        stores = {role: PairStore(benchmark.split_for(role), model.processor) for role in ("forget", "retain")}
        options = FitOptions(lr=0.1, batch_size=12, optimizer="sgd", accumulate=2)
        with open_accelerator(cpu=True) as accelerator, carried_out(model, how):
            job = Fit(
                accelerator, model, lambda m, b: _contrast(m, None, b), stores, options, 6,
                model.tower_parameters("both"), SampleMeter({}, "test"), seed=0,
            )  # fmt: skip
            fit(job)
        return model.weights(), job.history

    plain, history = fitted(Execution())
    parts, again = fitted(Execution(micro_batch=2))  # of the 6 rows that `accumulate` leaves
    for name, tensor in plain.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-6)
    # Rounding of the first steps is in the losses of the later ones; how much differs from processor to processor.
    assert [point["loss"] for point in again] == pytest.approx([point["loss"] for point in history], rel=1e-4)


def test_memory_does_not_grow_with_the_batch():
    benchmark = Toy(Toy.Options(identities=50))
    model = benchmark.load_model("compromised")
    store = PairStore(benchmark.split_for("forget"), model.processor)
    model.clip.token_embedding.weight.requires_grad_(False)  # its gradient is larger than all activations here
    store.pixels(torch.arange(1)), store.tokens(torch.arange(1))  # read before memory is watched

    def peak(rows, micro_batch):
        def step():
            pair_cosine(*model(Pairs(store, torch.arange(rows)))[:2]).mean().backward()
            model.zero_grad(set_to_none=True)

        model.micro_batch = micro_batch
        step()
        return peak_bytes(step)

    parts, more_parts = peak(64, 16), peak(256, 16)
    whole, more_whole = peak(64, None), peak(256, None)
    assert more_parts < 1.3 * parts  # what grows is embeddings
    assert more_whole > 2.5 * whole
    assert more_parts < more_whole / 8


def test_where_hooks_watch_an_encoder_it_is_given_the_whole_batch():
    benchmark = Toy()
    model = benchmark.load_model("compromised")
    seen = []
    with carried_out(model, Execution(micro_batch=4)):
        handle = model.clip.visual.conv1.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
        pairs = _batch(benchmark, model).forget
        with torch.no_grad():
            model(pairs)
        with pytest.warns(UserWarning, match="Forward hooks watch an encoder, so it is given 13 rows at once"):
            model(pairs)
        handle.remove()
        model(pairs)
    assert seen == [13, 13]


def test_everything_is_taken_back_and_copies_and_names_stay_plain():
    model = Toy().load_model("compromised")
    names = list(model.weights())
    fingerprint = model.fingerprint()
    with carried_out(model, Execution(4, checkpoint_activations=True)) as in_force:
        assert in_force == {"micro_batch": 4, "checkpoint_activations": True}
        assert model.clip.visual.transformer.grad_checkpointing
        assert model.clip.transformer.grad_checkpointing
        assert list(model.weights()) == names
        assert model.frozen_copy().micro_batch == 4
    assert model.micro_batch is None
    assert not model.clip.visual.transformer.grad_checkpointing
    assert not model.clip.transformer.grad_checkpointing
    assert model.fingerprint() == fingerprint
    with carried_out(model, Execution()) as in_force:
        assert in_force == {}


def test_an_architecture_that_cannot_checkpoint_says_so(monkeypatch):
    model = Toy().load_model("compromised")

    def refuse(enable):
        raise NotImplementedError("not in this trunk")

    monkeypatch.setattr(model.clip, "set_grad_checkpointing", refuse)
    with pytest.raises(BadOptions, match="not in this trunk"), carried_out(model, Execution(checkpoint_activations=True)):
        pass


def test_batch_statistics_are_not_trained_on_micro_batches():
    benchmark = Toy()
    model = benchmark.load_model("compromised")
    model.clip.visual.extra = torch.nn.BatchNorm1d(3)
    model.micro_batch = 4
    with open_accelerator(cpu=True) as accelerator:
        job = Fit(
            accelerator, model, lambda m, b: m(b.forget).image.sum(), {}, FitOptions(), 1, model.tower_parameters(),
            SampleMeter({}, "test"), seed=0, normalisation_training=True,
        )  # fmt: skip
        with pytest.raises(BadOptions, match="needs whole batches"):
            fit(job)


def test_without_a_compiler_the_encoders_run_as_written(monkeypatch):
    monkeypatch.setattr(execution, "compiler_problem", lambda device: "no C++ compiler found")
    model = Toy().load_model("compromised")
    warned = pytest.warns(UserWarning, match="torch.compile does not work here. no C")
    with warned, carried_out(model, Execution(compile=True)) as in_force:
        assert model.clip.visual._compiled_call_impl is None
    assert in_force == {"compile": "not available: no C++ compiler found"}


def test_a_missing_compiler_is_found_out(monkeypatch):
    def broken(function):
        raise RuntimeError("InvalidCxxCompiler: none found\nlong text")

    monkeypatch.setattr(torch, "compile", broken)
    assert compiler_problem(torch.device("cpu")) == "InvalidCxxCompiler: none found"


@pytest.mark.filterwarnings("ignore")
def test_compiled_encoders_give_the_same_gradients_and_leave_no_trace(monkeypatch):
    """With the compiler's front end and its joint graphs; generating machine code would take most of a minute."""
    monkeypatch.setattr(execution, "compiler_problem", lambda device: None)
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda *args, **more: real(*args, **more, backend="aot_eager"))
    expected, gradients = _gradients(_distil, Execution())
    value, found = _gradients(_distil, Execution(5, checkpoint_activations=True, compile=True))
    assert value == pytest.approx(expected, rel=1e-5)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max().item() + 1e-8)
    model = Toy().load_model("compromised")
    names = list(model.weights())
    with carried_out(model, Execution(compile=True)):
        assert model.clip.visual._compiled_call_impl is not None
        assert list(model.weights()) == names
        assert copy.deepcopy(model).clip.visual._compiled_call_impl is None
        assert model.frozen_copy().clip.visual._compiled_call_impl is not None
        seen = []
        pairs = _batch(Toy(), model).forget
        model(pairs)
        with torch.no_grad():
            handle = model.clip.visual.conv1.register_forward_hook(lambda module, inputs, output: seen.append(1))
            model(pairs)
            handle.remove()
        assert seen == [1]  # a hook that came later is not missed by compiled code
    assert model.clip.visual._compiled_call_impl is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(pairs)
