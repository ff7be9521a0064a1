"""``Perturbed``: random weight perturbation around the passes of any PyTorch loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import update_bn

from rwp_dist.base.errors import ConfigError
from rwp_dist.perturb.checks import (
    Strength,
    check_options,
    choose_strength,
    common_device,
    find_method,
    refuse_mixed_batchnorm,
    refuse_no_network,
    refuse_no_rows,
    refuse_one_slot,
    refuse_sharded,
    refuse_subgroup,
    refuse_untrainable,
)
from rwp_dist.perturb.counts import Counts
from rwp_dist.perturb.moves import Network, Options, build_move
from rwp_dist.perturb.moves.move import Gradients
from rwp_dist.perturb.normals import Backend, choose_backend
from rwp_dist.perturb.rows import Rows, check_patterns, list_rows
from rwp_dist.perturb.scale import Scale
from rwp_dist.perturb.slots import Slot, Slots, mean_loss_weight, num_perturbed
from rwp_dist.perturb.statistics import RunningStatistics, frozen_statistics
from rwp_dist.perturb.stopwatch import Stopwatch
from rwp_dist.perturb.turns import Turns
from rwp_dist.perturb.weights import CleanWeights, PerturbedCopy, forget_casts

if TYPE_CHECKING:
    from rwp_dist.perturb.attached import Attached

LOOKAHEAD = 64
"""Steps among which the next perturbed one is looked for, to draw its noise ahead."""


class Perturbed:
    """Trains a network with a method of ``METHODS``, in one process or under DDP.

    ::

        noisy = Perturbed(ddp, "m-rwp", seed=0)
        for step, (x, y) in enumerate(loader):
            with noisy(step):
                (noisy.weight * F.cross_entropy(ddp(x), y)).backward()
            optimizer.step()
            optimizer.zero_grad()
            noisy.end_step()

    Inside the block the weights are perturbed if this rank's pass is; outside they are clean.
    Noise depends on (seed, step, slot) alone, so a run that goes on from a ``state_dict`` repeats
    it to the last bit. All ranks must make the same calls. One process has one pass in this loop,
    too few for a mixed method: see ``micro_batches``.

    BatchNorm learns its running statistics from clean passes only, where the method has any. Each
    rank learns its own, so DDP's ``broadcast_buffers`` is switched off: give ``Perturbed`` the DDP
    module. Evaluate and save within ``noisy.evaluating()``.
    """

    def __init__(
        self,
        model: nn.Module,
        method: str,
        *,
        sigma: Strength | None = None,
        rho: Strength | None = None,
        lambda_: float = 0.5,
        micro_batches: int = 1,
        seed: int = 0,
        exclude: Sequence[str] = ("ndim<2",),
        antithetic: bool = False,
        scale: Scale = "rms",
        eta: float = 0.1,
        beta: float = 0.99,
        power: float = 0.5,
        backend: Backend | Literal["auto"] = "auto",
        draw_ahead: bool = True,
        scaler: torch.amp.GradScaler | None = None,
        weights: CleanWeights | None = None,
        gradients: Gradients | None = None,
        slots: Sequence[Sequence[Slot]] | None = None,
    ) -> None:
        """
        Args:
            model: the network on its device, or a DistributedDataParallel around it. Its
                parameters must be whole: not sharded by FSDP, tensor parallelism or ZeRO stage 3.
            method: a key of ``METHODS``.
            sigma: noise level, by default 0.3 for rwp and arwp and 0.4 for m-rwp and m-arwp; a
                number, or a function of the step, which is asked for steps to come too.
            rho: likewise the radius of sam, asam and last-sam, 0.05 by default.
            lambda_: weight of the perturbed loss in m-rwp and m-arwp.
            micro_batches: passes of each rank between two optimizer steps.
            seed: seed of the noise, the same on all ranks.
            exclude: parameters without noise, as patterns of names; ``ndim<2``, the default, names
                all biases and normalisation parameters.
            antithetic: perturbed passes in pairs use +noise and -noise.
            scale, eta, beta, power, draw_ahead: see ``moves.Options``.
            backend: what draws noise; auto is the fastest on this device.
            scaler: the loop's GradScaler, if it has one.
            weights: replaces the perturbed copy. For engines, such as ZeRO, that restore the clean
                weights themselves.
            gradients: averaged gradients, for engines that keep them elsewhere than in ``.grad``.
            slots: slots of all ranks, if not those of ``Slots``.

        Raises:
            ConfigError: an option that does not fit the network, the ranks or the machine.
        """
        refuse_no_network(model)
        self.ddp = model if isinstance(model, DistributedDataParallel) else None
        self.model: nn.Module = self.ddp.module if self.ddp is not None else model
        model = self.model
        self.method, self._name = find_method(method), method
        self.rank, world_size = _rank_and_world_size()
        if self.ddp is not None:
            refuse_subgroup(self.ddp, world_size)
        self._strength = choose_strength(self.method, sigma, rho)
        self.scaler, self._scale = scaler, 1.0
        check_options(
            lambda_=lambda_,
            micro_batches=micro_batches,
            seed=seed,
            exclude=exclude,
            scale=scale,
            eta=eta,
            beta=beta,
            power=power,
            backend=backend,
        )
        self.weights = weights or PerturbedCopy()
        if self.weights.whole:
            refuse_sharded(model)
        refuse_mixed_batchnorm(model, self.method)
        refuse_untrainable(model)
        device = common_device(model)
        self._on_device = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
        """Triton and new streams take the current device, which need not be the model's."""
        names = [name for name, _ in model.named_parameters()]
        check_patterns(names, exclude, key="exclude")
        excluded = exclude if self.method.draws_noise else ()
        self.rows: list[Rows] = []
        """The perturbed parameters."""
        if self.method.move is not None:
            self.rows = list_rows(model.named_parameters(), excluded)
            refuse_no_rows(self.rows)
        self.backend: Backend | None = None
        """What draws the noise; None for a method without."""
        if self.method.draws_noise:
            self.backend = choose_backend(backend, device)
        self.weight = 0.0
        """Factor of the mean loss of the present pass. Losses of all passes are added up: do not
        divide by the number of micro-batches."""
        self.perturbs = False
        """Whether the present pass, or the one before, is at perturbed weights."""
        self.watch = Stopwatch(device)
        """Time of perturbing and restoring."""
        self._statistics = RunningStatistics(model)
        self._synced_buffers = False
        """Whether DDP gave rank 0's statistics to all ranks."""
        if self.ddp is not None and self._statistics.layers:
            self._synced_buffers = _sync_buffers(self.ddp, False)
        self._options = Options(scale, eta, beta, power, self.backend or "torch", draw_ahead)
        self._lambda, self._antithetic, self._seed = lambda_, antithetic, seed
        self._gradients = gradients or (lambda params: [p.grad for p in params])
        self._device = device
        self.counts = Counts()
        self._attached: Attached | None = None
        self._next_step = 0
        """The update that ``attach`` begins with."""
        self._given_slots = slots is not None
        self._use_slots(slots or self._assign_slots(micro_batches))

    def _assign_slots(self, micro_batches: int) -> Slots:
        world_size = _rank_and_world_size()[1]
        return Slots(self.method, world_size, micro_batches, self._lambda, self._antithetic)

    def _use_slots(self, slots: Sequence[Sequence[Slot]]) -> None:
        """Make the move for these slots of all ranks."""
        self.slots = slots
        """Slots of all ranks, ``[world_size][micro_batches]``."""
        self.my_slots = slots[self.rank]
        network = Network(
            rows=self.rows,
            weights=self.weights,
            device=self._device,
            seed=self._seed,
            slots=self.my_slots,
            num_perturbed=num_perturbed(slots),
            gradients=self._gradients,
        )
        with self._on_device:
            self.move = build_move(self.method, network, self._options)
        self._step, self._turns = 0, Turns(len(self.my_slots))
        self._hook = self._watch_gradients()

    def attach(
        self, optimizer: torch.optim.Optimizer, *, micro_batches: int | None = None
    ) -> Perturbed:
        """Perturb in a loop in which nothing else changes, for methods of one pass.

        ::

            noisy = Perturbed(model, "m-rwp", seed=0).attach(optimizer)

        From here on each forward pass of the network in training mode takes the next role, clean
        ones first, and ``optimizer.step`` finds the clean weights. The loss of a pass must be the
        mean over its samples, divided by ``micro_batches``. On several ranks the first step is a
        collective, which checks that they train together.

        Args:
            optimizer: the one that steps; wrappers of Accelerate and Lightning are looked through.
                If several step this network, the one that steps first.
            micro_batches: passes of each rank between two of its steps. None: as ``Perturbed`` was
                told, which is 1 by default.

        Raises:
            ConfigError: the method takes two passes, a mixed one has too few, or the optimizer is
                of another network.
        """
        if self.method.ascends:
            raise ConfigError(
                "it takes two passes in each update, which a loop as it is does not have",
                key="method",
                cure="write `with noisy(step, loss=lambda: ...)` around the pass, or choose rwp",
            )
        if not isinstance(self.weights, PerturbedCopy):
            raise ConfigError(
                "an engine with weights of its own is not attached to",
                key="weights",
                cure="write `with noisy(step):` around the pass",
            )
        from rwp_dist.perturb.attached import (
            Attached,
            find_optimizer,
            find_scaler,
            refuse_other_parameters,
        )

        scaler = self.scaler or find_scaler(optimizer)
        optimizer = find_optimizer(optimizer)
        refuse_other_parameters(self.model, optimizer)
        for earlier in Attached.to(self.model):
            earlier.close()
        self.close()
        if micro_batches is not None and not self._given_slots:
            check_options(micro_batches=micro_batches)
            self.slots = self._assign_slots(micro_batches)
        if not self._given_slots:
            refuse_one_slot(self.method, self.slots)
        if self._synced_buffers and self.ddp is not None:
            # An evaluation in such a loop needs statistics on every rank.
            _sync_buffers(self.ddp, True)
        loaded = self.move.state_dict()
        self._use_slots(self.slots)
        self.move.load_state_dict(loaded)
        self._attached = Attached(self, self.model, self.weights, optimizer, scaler)
        self._attached.step = self._next_step
        return self

    def detach(self) -> None:
        """Leave the loop as it was before ``attach``: clean weights and no hook."""
        self.close()

    def _settle(self) -> None:
        """In a loop to which it is attached: the pass and the update that are over."""
        if self._attached is not None:
            self._attached.settle()

    def stats(self) -> dict[str, float]:
        """What happened so far: ``steps``, ``skipped_steps``, ``strength`` of the last step,
        ``perturbed_passes`` of this rank, and ``adaptation`` of arwp and m-arwp.

        Asks the device: for log lines, not for every step.
        """
        if self._attached is not None:
            self._attached.end_step()
        adaptation = self.move.adaptation()
        return {
            "steps": self.counts.steps,
            "skipped_steps": int(self.counts.skipped_steps),
            "strength": self.strength(self._step),
            "perturbed_passes": self.counts.perturbed_passes,
        } | ({} if adaptation is None else {"adaptation": float(adaptation)})

    def update_bn(self, loader: Iterable[Any]) -> None:
        """Learn BatchNorm's running statistics anew, at the clean weights.

        For methods without a clean pass (rwp, arwp, last-sam), before an evaluation.

        Args:
            loader: batches, as for ``torch.optim.swa_utils.update_bn``: inputs, or pairs that
                begin with them.
        """
        self._settle()
        self.weights.ensure_clean()
        update_bn(loader, self.model, self._device)

    def abandon_update(self) -> None:
        """The update that has begun gets no more passes; the next one begins anew."""
        self._turns.start_again()
        self.move.pass_failed()

    @contextmanager
    def __call__(
        self,
        step: int,
        micro_batch: int = 0,
        *,
        loss: Callable[[], Tensor] | None = None,
        grad_scale: float | None = None,
    ) -> Iterator[None]:
        """Around forward and backward of one micro-batch.

        Args:
            step: update, counted from 0.
            micro_batch: which pass of this rank in the update, from 0.
            loss: mean loss of the micro-batch at the present weights, as a function; sam and asam
                call it once, before the pass.
            grad_scale: factor from this pass's gradient to that of its mean loss. None: the loss
                was the mean loss times ``weight``.

        Raises:
            ConfigError: a pass is out of turn, or sam and asam were given no ``loss``.
        """
        if self._attached is not None and not self._attached.opening:
            raise ConfigError(
                "it is attached to a loop, which needs no block",
                key="attach",
                cure="take the block away, or do not call attach",
            )
        if not self._given_slots:
            refuse_one_slot(self.method, self.slots)
        self._turns.begin(micro_batch)
        self._step, slot = step, self.my_slots[micro_batch]
        self.perturbs = False
        self.weight = mean_loss_weight(slot, self.slots)
        if self.scaler is not None and grad_scale is None and micro_batch == 0:
            self._scale = float(self.scaler.get_scale())
        if grad_scale is None:
            factor = self.weight * self._scale
            grad_scale = 1.0 / factor if factor else 0.0
        try:
            if slot.perturbed:
                with self._perturbed_pass(slot, step, loss, grad_scale):
                    yield
            else:
                yield
            if self._turns.in_last_pass:
                with self._on_device:
                    self.move.passes_done()
        except BaseException:
            self._turns.start_again()
            self.move.pass_failed()
            raise
        finally:
            self._turns.end()

    @contextmanager
    def _perturbed_pass(
        self,
        slot: Slot,
        step: int,
        loss: Callable[[], Tensor] | None,
        grad_scale: float,
    ) -> Iterator[None]:
        strength = self.strength(step)
        try:
            with self._on_device, self.watch.running("perturb"):
                self.counts.passes_at_strength_0 += strength == 0
                if strength > 0:
                    self.counts.perturbed_passes += 1
                    self.perturbs = self.move.ready
                    self.move.perturb(slot, step, strength, self._ascent_loss(loss))
                    forget_casts()
            # A pass at the weights of sam's ascent has had its clean pass. One of rwp has no other
            # to learn from, and with strength 0 that of sam is the clean one.
            ascended = self.method.ascends and strength > 0
            frozen = ascended or "clean" in self.method.roles
            try:
                with frozen_statistics(self._statistics.layers if frozen else []):
                    self.move.observe(grad_scale)
                    yield
            finally:
                self.move.observe(None)
        except BaseException:
            self.weights.recover()
            forget_casts()
            raise
        with self._on_device, self.watch.running("restore"):
            self.weights.restore(last=slot is self.my_slots[-1])
            forget_casts()

    def _ascent_loss(self, loss: Callable[[], Tensor] | None) -> Callable[[], Tensor] | None:
        """``loss`` for a pass of its own, which DDP must not prepare for a reduction."""
        if not self.method.ascends:
            return None
        if loss is None:
            raise ConfigError(
                "a method that ascends needs the loss at the clean weights first",
                key="loss",
                cure="write `with noisy(step, loss=lambda: ...)`",
            )

        def scaled() -> Tensor:
            with self.ddp.no_sync() if self.ddp is not None else nullcontext():
                return loss() * self._scale

        return scaled

    def strength(self, step: int) -> float:
        """sigma or rho of a step. At 0 the weights stay clean.

        Roles, weights of the losses, and the passes that BatchNorm learns from do not change.

        Raises:
            ConfigError: a function of the user's returned what is no strength.
        """
        if not callable(self._strength):
            return self._strength
        value = self._strength(step)
        if not 0.0 <= value < math.inf:
            raise ConfigError(
                f"it returned {value!r} for step {step}",
                key=self.method.strength,
                cure="have the function return a number from 0 up",
            )
        return value

    def _watch_gradients(self) -> Any:
        """Tell the move when the last gradient of the last pass comes.

        The parameter that a forward pass uses first gets its gradient last. What is then left of
        the backward pass is reducing gradients over the ranks: time to draw noise in.
        """
        if not self.move.draws_ahead:
            return None

        def last_gradient(grad: Tensor) -> None:
            if self._turns.in_last_pass:
                self.move.gradients_done(self._next_perturbed_step())

        return self.rows[0].param.register_hook(last_gradient)

    def _next_perturbed_step(self) -> int | None:
        """The next update with a strength above 0; None if there is none for a while."""
        try:
            ahead = range(self._step + 1, self._step + 1 + LOOKAHEAD)
            return next((step for step in ahead if self.strength(step) > 0), None)
        except LookupError:  # a table of the user's that ends with the run
            return None

    def end_step(self, applied: bool | Tensor | None = None) -> None:
        """The optimizer's step is over.

        Args:
            applied: False if it was skipped because a gradient was not finite. A tensor of one
                bool if only the device knows. None: it was applied, unless the GradScaler has
                lowered its scale since.

        Raises:
            ConfigError: the update lacks passes.
        """
        self._turns.end_update()
        if applied is None:
            applied = self.scaler is None or self.scaler.get_scale() >= self._scale
        self.counts.steps += 1
        self.counts.skipped_steps = self.counts.skipped_steps + (
            ~applied if isinstance(applied, Tensor) else not applied
        )
        self.weights.stepped(applied)
        with self._on_device:
            self.move.step_done(applied)

    @contextmanager
    def evaluating(
        self, relearn: Callable[[], None] | None = None, *, always: bool = False
    ) -> Iterator[None]:
        """Clean weights, and BatchNorm statistics that belong to them and are equal on all ranks.

        Evaluate and save inside. Afterwards each rank goes on with its own statistics, so
        evaluating never changes training. A collective.

        Args:
            relearn: passes some training batches through the network in training mode. Called
                without gradients, and only for methods without a clean pass (rwp, arwp, last-sam),
                whose running statistics belong to perturbed weights otherwise.
            always: call it for every method, to evaluate other weights, such as an average.

        Raises:
            ConfigError: inside a pass.
        """
        self._settle()
        if self._turns.inside:
            raise ConfigError("a pass is under way", key="evaluating", cure="end its block first")
        self.weights.ensure_clean()
        anew = relearn if always or not self.method.has_clean_pass else None
        with self._statistics.averaged(contributes=self.learns_statistics, relearn=anew):
            yield

    @property
    def learns_statistics(self) -> bool:
        """Whether this rank's BatchNorm statistics count: all do if no rank has a clean pass."""
        if self.method.ascends or not self.method.has_clean_pass:
            return True
        return any(not slot.perturbed for slot in self.my_slots)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps beside weights, buffers and optimizer. A collective.

        The state of the move, and, on rank 0 alone, every rank's own BatchNorm statistics.
        """
        self._settle()
        state = {
            "method": self._name,
            "seed": self._seed,
            "move": self.move.state_dict(),
            "statistics": self._statistics.gather(),
        }
        return state | ({"step": self._attached.step} if self._attached is not None else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` gave.

        On another number of ranks all keep the averaged statistics that the network was saved with.

        Raises:
            ConfigError: it is of another method or seed, or of another rank than 0.
        """
        for key, mine in (("method", self._name), ("seed", self._seed)):
            if state.get(key, mine) != mine:  # states of version 0.1 do not say
                raise ConfigError(
                    f"the state is of {key} {state[key]}, and this is {mine}",
                    key="state",
                    cure=f"load it with the same {key}, or begin without it",
                )
        if self._attached is not None:
            self._attached.drop_update()
        try:
            self.move.load_state_dict(state["move"])
            ranks = state["statistics"]
        except KeyError as error:
            raise ConfigError(
                f"the state lacks {error}, so it is of another method",
                key="state",
                cure="load a state that the same method saved",
            ) from None
        self._next_step = state.get("step", 0)
        if self._attached is not None:
            self._attached.step = self._next_step
        if ranks is None and self._statistics.layers:
            raise ConfigError(
                "the state has no BatchNorm statistics, so it is that of another rank than 0",
                key="state",
                cure="load rank 0's on all ranks",
            )
        if ranks is not None and len(ranks) == len(self.slots):
            self._statistics.load(ranks[self.rank])

    def close(self) -> None:
        """Release threads and hooks; the network is an ordinary one again."""
        if self._attached is not None:
            attached, self._attached = self._attached, None
            attached.remove()
            self._next_step = attached.step
        self.weights.recover()
        self.move.close()
        if self._hook is not None:
            self._hook.remove()


def _rank_and_world_size() -> tuple[int, int]:
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def _sync_buffers(ddp: DistributedDataParallel, on: bool) -> bool:
    """Whether DDP overwrites all ranks' statistics with rank 0's in every forward; what it was."""
    name = "forward_sync_buffers" if hasattr(ddp, "forward_sync_buffers") else "broadcast_buffers"
    before = bool(getattr(ddp, name))
    setattr(ddp, name, on)
    return before
