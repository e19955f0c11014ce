#!/usr/bin/env python3
"""Decoding and training together, beside what others wrote: clips a second as ratios.

    python benchmarks/end_to_end.py FOLDER [--bs 8] [--rounds N] [--steps N] [--workers N] [--threads N] [--json FILE]

FOLDER is a data set as `read_manifest` reads it; its training list is used. Tiny models (192 wide, 12 deep, 3 heads, tubelet 2×16×16) learn on clips of 16
frames of 112×112. All arms see the same videos in the same order, `segments` of 16 frames, the same batch size, the same number of worker processes and of
threads (OMP_WAIT_POLICY=passive, so that idle threads leave the cores to the workers), and take whole steps: cross-entropy with label smoothing 0.1,
backward, gradients clipped to 1, fused AdamW (the defaults of transformers' Trainer, and ours).

    transformers    VivitForVideoClassification, SDPA, float32 as it comes. Loader: the one in its documentation, PyAV converting the wanted frames at full
                    size, then VivitImageProcessor (shorter side 128, middle 112×112), in a torch DataLoader
    vit-pytorch     its factorized_encoder (4 blocks along time, as ours), its fused attention on, in bfloat16 autocast; the same loader, as it brings none
    Model 1, 2      video_dataloaders and video_learner, everything at its default; decoded each time, and from a cache that is filled

One process; the arms take turns, round by round. A turn starts the workers, takes some steps to warm up, and then measures the wall time of the next steps;
batches remain to be loaded at its end, so that what is loaded ahead at the start of the measurement is loaded ahead at its end as well. Printed: the median
of per-round ratios to each peer, 95 % intervals (bootstrap of the median), clips a second, and the epoch of UCF101's split 1 (9,537 clips) that they make.
`Model …, cached` is at home from the second epoch on. Needs the extra: pip install -e '.[reference]'
"""
import argparse, json, os, platform, random, statistics, tempfile, time
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')      # before torch is imported
from pathlib import Path
import av, numpy as np, torch, transformers
from torch.multiprocessing import active_children
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from models import hub_model, interval, vit_pytorch_model
from vivit_tutorial.clips import segments
from vivit_tutorial.manifest import read_manifest
from vivit_tutorial.cache import Cache
from vivit_tutorial.data import short_side, video_dataloaders
from vivit_tutorial.learner import video_learner
from fastai.callback.core import Callback, CancelFitException

n_frames, size, epoch = 16, 112, 9537      # clips of UCF101's first training list

class Documented:
    "A data set of float clips `(t, c, h, w)` and labels, read as transformers' documentation reads them"
    def __init__(self, manifest):
        self.items = [(str(v.path), manifest.classes.index(v.label)) for v in manifest.train]
        self.process = transformers.VivitImageProcessor(size=dict(shortest_edge=short_side(size)), crop_size=dict(height=size, width=size))
    def __len__(self): return len(self.items)
    def __getitem__(self, i):
        path, label = self.items[i]
        with av.open(path) as box:
            idxs, frames = segments(box.streams.video[0].frames, n_frames), []
            for j, frame in enumerate(box.decode(video=0)):
                if j > idxs[-1]: break
                if j in idxs: frames.append(frame)
            clip = np.stack([f.to_ndarray(format='rgb24') for f in frames])                    # t h w c
        x = self.process(list(clip), return_tensors='pt')['pixel_values'][0]                   # t c h w
        return torch.cat([x, x[-1:].expand(n_frames - len(x), -1, -1, -1)]), label             # a header that announces too many frames

class Clock(Callback):
    "Wall time of `steps` steps after `warm` ones; then it stops a Learner's fit"
    order = 100                                                    # after all other callbacks
    def __init__(self, warm, steps): self.warm, self.end, self.n = warm, warm + steps, 0
    def tick(self): # after each step: is that all?
        self.n += 1
        if self.n in (self.warm, self.end) and torch.cuda.is_available(): torch.cuda.synchronize()
        if self.n == self.warm: self.start = time.perf_counter()
        if self.n == self.end: self.seconds = time.perf_counter() - self.start
        return self.n == self.end
    def after_batch(self):
        if self.tick(): raise CancelFitException

class Peer:
    "What others wrote, in a plain loop"
    def __init__(self, model, call, loader, bf16):
        self.model, self.call, self.loader, self.bf16 = model.train(), call, loader, bf16
        self.opt = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=.05, fused=True)
    def run(self, clock):
        for x, y in self.loader:
            with torch.autocast('cpu', torch.bfloat16, enabled=self.bf16): logits = self.call(x)
            cross_entropy(logits.float(), y, label_smoothing=.1).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.)
            self.opt.step()
            self.opt.zero_grad()
            if clock.tick(): break

class Ours:
    "video_dataloaders and video_learner at their defaults"
    def __init__(self, name, manifest, bs, workers, cache=None):
        dls = video_dataloaders(manifest, n_frames=n_frames, size=size, bs=bs, num_workers=workers, device='cpu', cache=cache)
        dls.train.shuffle = False                                  # the same videos in the same order as the others
        self.learn = video_learner(dls, name, 'tiny')
    def run(self, clock):
        with self.learn.no_bar(), self.learn.no_logging(): self.learn.fit(1, 1e-4, cbs=clock)

def measured(arm, matmul, warm, steps):
    "Seconds of `steps` steps of an arm"
    torch.set_float32_matmul_precision(matmul)                     # what one arm sets is not another's
    clock = Clock(warm, steps)
    arm.run(clock)
    for p in active_children(): p.join(10)                         # no worker outlives its turn
    assert not active_children()
    return clock.seconds

def build(manifest, a, folder):
    "The arms, each with the precision of float32 products that it runs under"
    loader = DataLoader(Documented(manifest), a.bs, num_workers=a.workers, drop_last=True)
    before, torch_default = {}, torch.get_float32_matmul_precision()
    model, call = hub_model(transformers.VivitForVideoClassification, transformers.VivitConfig, n_frames, size, 'tiny', tubelet_size=[2, 16, 16], attn_implementation='sdpa')
    before['transformers, float32'] = Peer(model, lambda x: call(x.transpose(1, 2)), loader, False), torch_default
    model, _ = vit_pytorch_model('factorized_encoder', n_frames, size, 'tiny', 4)
    before['vit-pytorch, bfloat16'] = Peer(model, lambda x: model(x.transpose(1, 2)), loader, True), torch_default
    cache = Cache(folder, short_side(size))
    for v in manifest.train: cache.read(v.path, lambda n: [0])     # filled
    for title, name in (('Model 1', 'spatiotemporal'), ('Model 2', 'factorised_encoder')):
        for how, store in ((', decoded', None), (', cached', cache)):
            arm = Ours(name, manifest, a.bs, a.workers, store)
            before[title + how] = arm, torch.get_float32_matmul_precision()
    return before

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    p.add_argument('folder', type=Path)
    p.add_argument('--bs', type=int, default=8); p.add_argument('--rounds', type=int, default=7); p.add_argument('--steps', type=int, default=8)
    p.add_argument('--workers', type=int, default=cores); p.add_argument('--threads', type=int, default=cores); p.add_argument('--json', type=Path)
    a = p.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(0)
    warm = 2*a.workers + 2
    m, need = read_manifest(a.folder), a.bs*(warm + a.steps + 2*a.workers)
    if len(m.train) < need: p.error(f'{a.folder}: {len(m.train)} training videos, {need} are needed; take fewer --steps, or a smaller --bs')
    m = m._replace(train=random.Random(0).sample(m.train, need))
    print(f'{platform.processor() or platform.machine()}, {a.threads} threads, {a.workers} workers, batches of {a.bs}; torch {torch.__version__}, transformers {transformers.__version__}', flush=True)
    with tempfile.TemporaryDirectory() as tmp:
        arms = build(m, a, tmp)
        print(f'ours in {arms["Model 1, cached"][0].learn.precision}', flush=True)
        seconds = {name: [] for name in arms}
        for i in range(a.rounds + 1):                              # the first round warms up
            for name in random.sample(list(arms), len(arms)):
                s = measured(*arms[name], warm, a.steps)
                if i: seconds[name].append(s)
    rows = []
    for name, spent in seconds.items():
        row = dict(arm=name, clips_per_s=a.bs*a.steps/statistics.median(spent), ms=1000*statistics.median(spent)/a.steps)
        for peer, base in zip(('transformers', 'vit_pytorch'), list(seconds.values())[:2]):
            ratios = [u/t for u, t in zip(base, spent)]
            row[f'x_{peer}'] = statistics.median(ratios), *interval(ratios)
        rows.append(row)
    print(f'{"":24}{"× transformers":>20}{"× vit-pytorch bf16":>22}{"clips/s":>10}{"ms a step":>11}{"UCF101 epoch":>14}')
    for r in rows:
        one, two = ('{:.2f} ({:.2f}-{:.2f})'.format(*r[k]) for k in ('x_transformers', 'x_vit_pytorch'))
        print(f'{r["arm"]:24}{one:>20}{two:>22}{r["clips_per_s"]:10.1f}{r["ms"]:11.0f}{epoch/r["clips_per_s"]:12.0f} s')
    if a.json: a.json.write_text(json.dumps(dict(bs=a.bs, steps=a.steps, workers=a.workers, threads=a.threads, rows=rows, seconds=seconds), indent=1))

if __name__ == '__main__': main()
