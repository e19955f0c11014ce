#!/usr/bin/env python3
"""The models beside what others wrote: speed as ratios, and the memory that backward needs.

    python benchmarks/models.py [--models 1,2,3,divided] [--sizes tiny,base] [--rounds N] [--device cuda] [--json FILE]

One process; the arms take turns, round by round, and a ratio is taken within each round. Printed: the median ratio to the peer as it comes (float32),
its 95 % interval (bootstrap of the median), milliseconds, and MiB saved for backward; on a GPU peak memory and model-FLOP utilisation as well.
A step is forward, cross-entropy and backward, in training mode. Needs the extra: pip install -e '.[reference]'
"""
import argparse, json, os, platform, random, statistics, time, warnings
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
warnings.simplefilter('ignore')
from pathlib import Path
import torch, transformers, vit_pytorch.vivit
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode
from vivit_tutorial.timesformer import create_model
from vivit_tutorial.vivit import sizes
from vivit_tutorial.memory import saved_bytes

n_classes, peak_tflops = 101, 790   # bf16 matrix products measured on an H200
shapes = dict(tiny=(4, 16, 112), base=(1, 16, 224))   # clips in a batch, frames, height and width
names = {'1': 'spatiotemporal', '2': 'factorised_encoder', '3': 'factorised_attention', 'divided': 'timesformer_divided'}

def hub_model(kind, config, frames, img, size, classes=n_classes, **more):
    s = sizes[size]
    model = kind(config(hidden_size=s['dim'], num_hidden_layers=s['depth'], num_attention_heads=s['heads'], intermediate_size=4*s['dim'],
                        image_size=img, num_frames=frames, num_labels=classes, **more))
    return model, lambda x: model(pixel_values=x.transpose(1, 2)).logits

def vit_pytorch_model(variant, frames, img, size, time_depth, classes=n_classes):
    s = sizes[size]
    model = vit_pytorch.vivit.ViViT(image_size=img, image_patch_size=16, frames=frames, frame_patch_size=2, num_classes=classes, dim=s['dim'], variant=variant,
                                    spatial_depth=s['depth'], temporal_depth=time_depth or s['depth'], heads=s['heads'], mlp_dim=4*s['dim'])
    return model, model

peers = {   # who wrote it, and how it is built
    '1':       ("transformers' ViViT, SDPA", lambda *a: hub_model(transformers.VivitForVideoClassification, transformers.VivitConfig, *a, tubelet_size=[2, 16, 16], attn_implementation='sdpa')),
    '2':       ("vit-pytorch's factorized_encoder", lambda *a: vit_pytorch_model('factorized_encoder', *a, 4)),
    '3':       ("vit-pytorch's factorized_self_attention", lambda *a: vit_pytorch_model('factorized_self_attention', *a, None)),
    'divided': ("transformers' TimeSformer", lambda *a: hub_model(transformers.TimesformerForVideoClassification, transformers.TimesformerConfig, *a, patch_size=16))}

def ours(which, frames, img, size):
    model = create_model(names[which], size=size, n_classes=n_classes, n_frames=frames, img_size=img)
    return model, model

class Arm:
    "A model in one precision, its forward pass and its training step"
    def __init__(self, model, call, bf16): self.model, self.call, self.bf16 = model, call, bf16
    def logits(self, x):
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16): return self.call(x).float()
    def forward(self, x, y):
        self.model.eval()
        with torch.no_grad(): self.logits(x)
    def step(self, x, y):
        self.model.train()
        cross_entropy(self.logits(x), y).backward()
        self.model.zero_grad(set_to_none=True)

def saved_mib(arm, x, y):
    "MiB that autograd keeps between forward and backward, each storage once, parameters left out"
    arm.model.train()
    return saved_bytes(lambda: cross_entropy(arm.logits(x), y), arm.model)/2**20

def timed(f, device):
    if device == 'cuda': torch.cuda.synchronize()
    start = time.perf_counter()
    f()
    if device == 'cuda': torch.cuda.synchronize()
    return time.perf_counter() - start

def interval(ratios, draws=2000):
    "95 % interval of the median of the ratios, by bootstrap"
    rng = random.Random(0)
    medians = sorted(statistics.median(rng.choices(ratios, k=len(ratios))) for _ in range(draws))
    return medians[draws//40], medians[-draws//40]

def compare(which, size, rounds, device):
    "All arms of one model in one size: rows for the table"
    batch, frames, img = shapes[size]
    if device == 'cuda': batch *= 8
    torch.manual_seed(0)
    x, y = torch.randn(batch, 3, frames, img, img, device=device), torch.randint(n_classes, (batch,), device=device)
    peer, build = peers[which]
    theirs, mine = build(frames, img, size), ours(which, frames, img, size)
    for model, _ in (theirs, mine): model.to(device)
    arms = {(who, 'bf16' if bf16 else 'float32'): Arm(*pair, bf16) for who, pair in (('peer', theirs), ('ours', mine)) for bf16 in (False, True)}
    with FlopCounterMode(display=False) as counter: arms['ours', 'float32'].forward(x, y)
    rows = []
    for work in ('forward', 'step'):
        seconds = {key: [] for key in arms}
        for i in range(rounds + 1):                                # the first round warms up
            for key, arm in arms.items():
                s = timed(lambda: getattr(arm, work)(x, y), device)
                if i: seconds[key].append(s)
        for key, arm in arms.items():
            row = dict(model=names[which], size=size, work=work, who=key[0], precision=key[1], peer=peer, ms=1000*statistics.median(seconds[key]))
            for base in ('float32', key[1]):                       # beside the peer as it comes, and at equal precision
                ratios = [a/b for a, b in zip(seconds['peer', base], seconds[key])]
                row[f'x_{"default" if base == "float32" else "equal"}'] = statistics.median(ratios), *interval(ratios)
            row.setdefault('x_equal', row['x_default'])
            if work == 'step':
                row['saved_mib'] = saved_mib(arm, x, y)
                if device == 'cuda':
                    torch.cuda.reset_peak_memory_stats(); arm.step(x, y)
                    row['peak_mib'] = torch.cuda.max_memory_allocated()/2**20
                    row['mfu'] = 3*counter.get_total_flops()/(row['ms']/1000)/(peak_tflops*1e12)
            rows.append(row)
    return rows

def line(r):
    ratio = lambda k: '{:5.2f}x ({:.2f}-{:.2f})'.format(*r[k])
    end = ''.join(f'  {r[k]:8.{d}f} {unit}' for k, d, unit in (('saved_mib', 0, 'MiB saved'), ('peak_mib', 0, 'MiB peak'), ('mfu', 2, 'MFU')) if k in r)
    return f'{r["model"]:21} {r["size"]:5} {r["work"]:8} {r["who"]:5} {r["precision"]:8} {r["ms"]:8.0f} ms  {ratio("x_default")}  equal precision {ratio("x_equal")}{end}'

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--models', default=','.join(names)); p.add_argument('--sizes', default='tiny,base')
    p.add_argument('--rounds', type=int, default=15); p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--json', type=Path)
    a = p.parse_args()
    cpu = next((l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name')), platform.processor()) if Path('/proc/cpuinfo').exists() else platform.processor()
    machine = torch.cuda.get_device_name() if a.device == 'cuda' else f'{cpu}, {torch.get_num_threads()} threads, avx512_bf16 {torch.cpu._is_avx512_bf16_supported()}, amx {torch.cpu._is_amx_tile_supported()}'
    print(f'{machine}; torch {torch.__version__}, transformers {transformers.__version__}', flush=True)
    rows = []
    for which in a.models.split(','):
        for size in a.sizes.split(','):
            found = compare(which, size, a.rounds, a.device)
            print(f'{names[which]} {size} {"×".join(map(str, shapes[size]))}, beside {found[0]["peer"]}', *map(line, found), sep='\n', flush=True)
            rows += found
    if a.json: a.json.write_text(json.dumps(dict(machine=machine, rows=rows), indent=1))

if __name__ == '__main__': main()
