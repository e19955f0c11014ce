#!/usr/bin/env python3
"""Training on a GPU: how much of it is used, beside what others wrote. One run, a table, and a JSON file to keep.

    python benchmarks/gpu.py [FOLDER] [--minutes 9] [--json FILE]                                     # FOLDER: a data set, for the loader
    python benchmarks/gpu.py [FOLDER] --device cpu --size nano --frames 4 --img-size 32 --rounds 2    # does the script run to its end?

Everything is a whole step in bfloat16 autocast: forward, cross-entropy, backward, fused AdamW. What needs a package that is missing is left out with a line.

    steps     ViViT-B/16x2 Models 1 and 2 with 16 and 32 frames, TimeSformer-B divided with 8 and 16, beside transformers' ViViT (SDPA), vit-pytorch's
              factorized_encoder (fused attention on) and transformers' TimeSformer (eager attention, it has no other). Batches double until memory is full
              or a step takes a second; the fastest is an arm's best. The arms take turns, each with its best batch and with the smaller of the two best
              ones (`equal`); a turn is a step to warm up and 3 that are timed, with CUDA events. Medians; ratios of clips a second within each round, their
              median and range. And of ours: loss and gradient norm beside float32 on one batch; 30 steps on it: is every loss finite?
    loader    video_learner with video_dataloaders from a filled cache, as it is and with pinned memory, beside the same loop on a batch that stays on the
              device: the share of the time the device is busy
    kernels   the ten that take most of the time of the step that uses the GPU least
    variants  of ours: clips whose channels lie last (as in the cache), activation checkpointing, torch.compile, in turns with the plain model; half the best batch,
              as all of them lie in memory

MFU: 3 × the FLOPs of a forward pass of ours as it is (what the last block saves counts for nobody) / time / --peak, and / the matrix products of this run.
Peak memory is the arm's own: weights, optimiser, activations, batch; on a CPU it is not measured.
"""
import argparse, gc, itertools, json, os, random, statistics, sys, tempfile, time, traceback, warnings
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
os.environ.setdefault('PYTORCH_CUDA_ALLOC_CONF', 'expandable_segments:True')      # batches of many sizes take turns
warnings.simplefilter('ignore')
from pathlib import Path
import torch
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from vivit_tutorial.cache import Cache
from vivit_tutorial.data import TensorClip, VideoDL, short_side, video_dataloaders
from vivit_tutorial.learner import video_learner
from vivit_tutorial.manifest import read_manifest
from vivit_tutorial.timesformer import create_model
from fastai.torch_core import TensorCategory

n_classes = 101
names  = {'1': 'spatiotemporal', '2': 'factorised_encoder', 'divided': 'timesformer_divided'}     # as in models.py
frames = {'1': (16, 32), '2': (16, 32), 'divided': (8, 16)}
gpu = torch.cuda.is_available() and 'cpu' not in sys.argv

def seconds(f):
    if gpu:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record(); f(); end.record(); end.synchronize()
        return start.elapsed_time(end)/1000
    start, _ = time.perf_counter(), f()
    return time.perf_counter() - start

class Arm:
    "A model with its optimiser: how fast it trains with which batch"
    def __init__(self, who, build, n_frames, a, layout=torch.contiguous_format):
        torch.manual_seed(0)
        model, self.call = build()
        self.who, self.model, self.clip, self.device, self.layout = who, model.to(a.device).train(), (3, n_frames, a.img_size, a.img_size), a.device, layout
        self.tried, self.stopped = {}, None                        # batch: clips/s, MiB at most
        self.opt = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=.05, fused=True)
    def batch(self, n):
        g = torch.Generator(self.device).manual_seed(0)
        x = torch.randn(n, *self.clip, device=self.device, generator=g).contiguous(memory_format=self.layout)
        return x, torch.randint(n_classes, (n,), device=self.device, generator=g)
    def loss(self, x, y, bf16=True):
        with torch.autocast(self.device, torch.bfloat16, enabled=bf16): return cross_entropy(self.call(x).float(), y)
    def step(self, x, y):
        (loss := self.loss(x, y)).backward(); self.opt.step(); self.opt.zero_grad()
        return loss.detach()
    def turn(self, n): # seconds of a step with n clips
        gc.collect()
        if gpu:
            torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats()
            own = [*self.model.parameters(), *self.model.buffers(), *(v for s in self.opt.state.values() for v in s.values())]
            others = torch.cuda.memory_allocated() - sum(t.nbytes for t in own if t.is_cuda)
        self.step(*(xy := self.batch(n)))
        s = statistics.median(seconds(lambda: self.step(*xy)) for _ in range(3))
        self.tried[n] = n/s, (torch.cuda.max_memory_allocated() - others)/2**20 if gpu else None
        return s
    def search(self):
        n = 8 if gpu else 1
        try:
            while self.turn(n) < 1 and (gpu or n < 4): n *= 2
        except RuntimeError as e: self.stopped = f'{n} clips: {str(e).splitlines()[0][:90]}'     # out of memory, or a kernel that takes no more
        self.opt.zero_grad()
        self.best = max(self.tried, key=self.tried.get)
    def numbers(self): # beside float32 on one batch; and does the loss stay finite?
        xy, found = self.batch(4), []
        for bf16 in (False, True):
            (loss := self.loss(*xy, bf16)).backward()
            found.append((loss.item(), torch.nn.utils.clip_grad_norm_(self.model.parameters(), float('inf')).item()))
            self.opt.zero_grad()
        (loss_off, norm_off), losses = [abs(b/f - 1) for f, b in zip(*found)], torch.stack([self.step(*xy) for _ in range(30)])
        return dict(loss_off=loss_off, norm_off=norm_off, finite=bool(losses.isfinite().all()), first=losses[0].item(), last=losses[-1].item())

def ours(which, n_frames, a): return lambda: (m := create_model(names[which], size=a.size, n_classes=n_classes, n_frames=n_frames, img_size=a.img_size), m)
def flops(which, n_frames, a): # of the forward pass of one clip
    with torch.device('meta'), torch.no_grad(), FlopCounterMode(display=False) as count:
        ours(which, n_frames, a)()[0].eval()(torch.empty(1, 3, n_frames, a.img_size, a.img_size))
    return count.get_total_flops()

def take_turns(turns, a, until): # seconds of each (arm, batch), round by round; at least one round
    spent = {t: [] for t in turns}
    for _ in range(a.rounds):
        for arm, n in random.sample(turns, len(turns)): spent[arm, n].append(arm.turn(n))
        if time.time() > until: break
    return spent

def row(arm, n, spent, flop, a, rivals=()): # rivals: (name, (arm, batch))
    ms = 1000*statistics.median(spent[arm, n])
    r = dict(who=arm.who, batch=n, clips_per_s=1000*n/ms, ms=ms, peak_mib=arm.tried[n][1], mfu=3*flop*n/ms/1e9/a.peak, stopped=arm.stopped, tried=arm.tried)
    for name, rival in rivals:
        found = [n*t/(rival[1]*s) for s, t in zip(spent[arm, n], spent[rival])]
        r[name] = statistics.median(found), min(found), max(found)
    print(f'    {r["who"]:34} batch {n:4} {r["clips_per_s"]:9.1f} clips/s {ms:9.1f} ms', f'{r["peak_mib"]:7.0f} MiB' if gpu else '', f' MFU {r["mfu"]:.3f}',
          f'({r["mfu"]*a.peak/a.peak_of_run:.3f} of this run\'s peak)', *('  {} {:.2f}x ({:.2f}-{:.2f})'.format(k, *r[k]) for k, _ in rivals), flush=True)
    return r

def steps(which, n_frames, a, until):
    arms, flop = [], flops(which, n_frames, a)
    try:
        from models import peers
        title, build = peers[which]
        arms.append(Arm(title, lambda: build(n_frames, a.img_size, a.size), n_frames, a))
    except ImportError as e: print(f'    peer left out: {e.name} is not installed')
    arms.append(mine := Arm('ours', ours(which, n_frames, a), n_frames, a))
    found = mine.numbers()
    for arm in arms: arm.search()
    equal = min(arm.best for arm in arms)
    spent = take_turns(list(dict.fromkeys((arm, n) for arm in arms for n in (arm.best, equal))), a, until)
    rivals = lambda n: [(k, (arms[0], b)) for k, mark, b in (('best', mine.best, arms[0].best), ('equal', equal, equal)) if n == mark and len(arms) > 1]
    rows = [row(arm, n, spent, flop, a, rivals(n) if arm is mine else ()) for arm, n in spent]
    print('    beside float32: loss off by {loss_off:.1e}, gradient norm by {norm_off:.1e}; 30 steps finite: {finite}, loss {first:.2f} → {last:.2f}'.format(**found))
    return dict(model=names[which], frames=n_frames, gflop=flop/1e9, rows=rows, numbers=found)

def variants(which, n_frames, batch, a, until):
    build, arms = ours(which, n_frames, a), []
    def changed(how): # each block, as vivit_train --recompute and --compile do
        from vivit_tutorial import memory
        model, _ = build()
        if how == 'recompute': memory.recompute_blocks(model)
        for block in memory.blocks_of(model)*(how == 'compile'): block.compile()
        return model, model
    for who, f, *layout in (('plain', build), ('channels last', build, torch.channels_last_3d), ('checkpointed', lambda: changed('recompute')), ('compiled', lambda: changed('compile'))):
        try:
            (arm := Arm(who, f, n_frames, a, *layout)).turn(batch)
            arms.append((arm, batch))
        except (ImportError, RuntimeError) as e: print(f'    {who}: left out ({str(e).splitlines()[0][:120]})')
    spent, flop = take_turns(arms, a, until), flops(which, n_frames, a)
    return dict(model=names[which], frames=n_frames, rows=[row(*t, spent, flop, a, [('plain', arms[0])]) for t in arms])

class Kept(VideoDL):
    "Batches that are never read: one lies on the device"
    def __iter__(self): return (self.after_batch(self.kept) for _ in range(len(self)))

def loader(bs, n_frames, a, warm=4, n=12):
    from end_to_end import Clock
    m, workers, spent = read_manifest(a.folder), min(16, os.cpu_count()), {}
    m = m._replace(train=random.Random(0).sample(m.train, min(256, len(m.train))))
    with tempfile.TemporaryDirectory() as tmp:
        cache = Cache(tmp, short_side(a.img_size))
        for v in m.train: cache.read(v.path, lambda n: [0])        # filled
        m = m._replace(train=list(itertools.islice(itertools.cycle(m.train), bs*(warm + n + 2*workers))))
        dls = video_dataloaders(m, n_frames=n_frames, size=a.img_size, bs=bs, num_workers=workers, device=a.device, cache=cache)
        learn, dl = video_learner(dls, names['1'], a.size), dls.train
        dl.kept = (TensorClip(torch.randint(256, (bs, 3, n_frames, a.img_size, a.img_size), dtype=torch.uint8, device=a.device)),
                   TensorCategory(torch.randint(len(m.classes), (bs,), device=a.device)))
        for _ in range(3):
            for how, kind, pinned in (('kept', Kept, False), ('loaded', VideoDL, False), ('loaded, pinned', VideoDL, True)):
                dl.__class__, dl.pin_memory, dl.fake_l.pin_memory, clock = kind, pinned, pinned, Clock(warm, n)
                with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-4, cbs=clock)
                spent.setdefault(how, []).append(clock.seconds)
    found = {how: dict(seconds=s, clips_per_s=bs*n/statistics.median(s), busy=statistics.median(k/t for k, t in zip(spent['kept'], s))) for how, s in spent.items()}
    for how, r in found.items(): print(f'    {how:16} {r["clips_per_s"]:9.1f} clips/s, device busy {r["busy"]:.1%}')
    return dict(batch=bs, frames=n_frames, workers=workers, precision=learn.precision, **found)

def kernels(which, n_frames, batch, a):
    arm = Arm('ours', ours(which, n_frames, a), n_frames, a)
    arm.step(*(xy := arm.batch(batch)))
    with profile(activities=[ProfilerActivity.CPU] + [ProfilerActivity.CUDA]*gpu) as p:
        arm.step(*xy)
    events = [e for e in p.key_averages() if '#' not in e.key and ('CUDA' in str(e.device_type)) == gpu]     # kernels; on a CPU, operations
    times = {e.key: e.self_device_time_total if gpu else e.self_cpu_time_total for e in events}
    top = [(k[:120], times[k]/sum(times.values())) for k in sorted(times, key=times.get, reverse=True)[:10]]
    print(*(f'    {share:6.1%}  {k}' for k, share in top), sep='\n')
    return dict(model=names[which], frames=n_frames, batch=batch, kernels=top)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder', type=Path, nargs='?'); p.add_argument('--device', default='cuda', choices=['cuda', 'cpu']); p.add_argument('--size', default='base')
    p.add_argument('--frames', type=int); p.add_argument('--img-size', type=int, default=224); p.add_argument('--rounds', type=int, default=5)
    p.add_argument('--peak', type=float, default=790, help='TFLOP/s in bfloat16; 790 is what matrix products reach on an H200')
    p.add_argument('--minutes', type=float, default=9, help='rounds and variants are dropped beyond'); p.add_argument('--json', type=Path, default=Path('gpu.json'))
    a = p.parse_args()
    if not gpu and a.device == 'cuda': p.error('there is no GPU here; --device cpu tries the script')
    start, best, x = time.time(), {}, torch.randn(2*[8192 if gpu else 512], device=a.device, dtype=torch.bfloat16)
    a.peak_of_run = 2*len(x)**3/min(seconds(lambda: x @ x) for _ in range(20))/1e12
    at = lambda share: start + 60*a.minutes*share
    out = dict(device=torch.cuda.get_device_name() if gpu else 'cpu', torch=torch.__version__, peak=a.peak, peak_of_run=a.peak_of_run, failed={})
    print(f'{out["device"]}, torch {torch.__version__}; bfloat16 matrix products {a.peak_of_run:.1f} TFLOP/s; MFU of {a.peak:.0f}', flush=True)
    def part(title, f, *args):
        print(title, flush=True)
        try: return out.setdefault(f.__name__, []).append(found := f(*args)) or found
        except Exception as e:                                     # what fails does not cost the rest
            print(f'    failed: {type(e).__name__}: {str(e)[:200]}', flush=True)
            out['failed'][title] = traceback.format_exc()
        finally: a.json.write_text(json.dumps(out, indent=1))
    todo = [(w, f) for w in names for f in ([a.frames] if a.frames else frames[w])]
    for left, (w, f) in zip(range(len(todo), 0, -1), todo):
        if found := part(f'{names[w]} {a.size}, {f}×{a.img_size}²', steps, w, f, a, time.time() + (at(.6) - time.time())/left):
            best[w, f] = max((r for r in found['rows'] if r['who'] == 'ours'), key=lambda r: r['clips_per_s'])
    if a.folder and todo[0] in best: part('loader', loader, max(1, best[todo[0]]['batch']//2), todo[0][1], a)
    if best:
        w, f = min(best, key=lambda k: best[k]['mfu'])
        part(f'profile of {names[w]}, {f} frames', kernels, w, f, best[w, f]['batch'], a)
    for w, f in sorted({w: f for w, f in reversed(best)}.items()):   # of each model, with the fewest frames
        if time.time() < at(.8): part(f'variants of {names[w]}, {f} frames', variants, w, f, max(1, best[w, f]['batch']//2), a, at(.9))
    print(f'{(time.time() - start)/60:.1f} minutes, {len(out["failed"])} parts failed; {a.json}')
    return len(out['failed'])

if __name__ == '__main__': raise SystemExit(main())
