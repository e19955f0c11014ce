#!/usr/bin/env python3
"""What each part of the training recipe does: parts removed in turn, other models and one repeated frame, over splits and seeds, on paired runs.

    python benchmarks/recipe.py UCF101_FOLDER --out recipe.json [--arms 'full;plain'] [--splits 1,2,3] [--seeds 0,1] [--share 1/2] [--table]
    python benchmarks/recipe.py UCF101_FOLDER --out recipe_gpu.json --frames 16 --img-size 112 --size base --device cuda

Every arm trains the same loop on the same training groups, keeps the epoch with the best accuracy on held-out training groups, and is tested once on the
official test list. The file, a JSON object a line, keeps every video's answer; a run that is in it is not run again, so a broken sweep goes on. `--share i/n` takes every n-th run,
for n processes side by side. Printed (or with `--table` alone): mean test accuracy, and the paired difference to the full recipe with its 95 % interval by
bootstrap over test groups within classes, all splits and seeds of a drawn group together. Needs the extra for the peers: pip install -e '.[reference]'
"""
import argparse, json, os, time, warnings
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
warnings.simplefilter('ignore')
from pathlib import Path
import torch
from torch import nn
from vivit_tutorial.data import short_side, video_dataloaders
from vivit_tutorial.learner import video_learner
from vivit_tutorial.vivit import sizes
from vivit_tutorial.timesformer import create_model
from vivit_tutorial.augment import Augment, Mix
from vivit_tutorial.run import KeepCheckpoints
from vivit_tutorial.checkpoint import load_checkpoint
import vivit_tutorial.report
from fastai.torch_core import set_seed

full = dict(model='spatiotemporal', frames='segments', crop=True, flip_x=.5, colour=.3, n_ops=0, erase=0., mix=False, smoothing=.1, ema=.99,
            drop_path=.1, wd=.05, schedule='cosine')
plain = dict(crop=False, flip_x=0., colour=0., smoothing=0., ema=0., drop_path=0., schedule='one_cycle')
arms = {
    'full': {},
    'plain': plain,                                    # one-cycle and random crops, nothing else
    'no random resized crop': dict(crop=False),
    'no flip': dict(flip_x=0.),
    'no colour jitter': dict(colour=0.),
    'no label smoothing': dict(smoothing=0.),
    'no average of weights': dict(ema=0.),
    'no stochastic depth': dict(drop_path=0.),
    'no weight decay': dict(wd=0.),
    'one-cycle instead of cosine': dict(schedule='one_cycle'),
    'with mixup and cutmix': dict(mix=True),
    'with RandAugment': dict(n_ops=2),
    'with random erasing': dict(erase=.25),
    'one repeated frame': dict(frames='one'),
    'Model 2': dict(model='factorised_encoder'),
    'Model 3': dict(model='factorised_attention'),
    'Model 4': dict(model='factorised_dot_product'),
    'TimeSformer, divided': dict(model='timesformer_divided'),
    "transformers' ViViT": dict(model='transformers'),
    "vit-pytorch's factorised encoder": dict(model='vit-pytorch'),
    "torchvision's r3d_18": dict(model='r3d_18')}

class Peer(nn.Module):
    "Somebody else's model: clips (b, c, t, h, w) → logits, with a `head` and a `config`, as the loop wants it"
    def __init__(self, kind, a, n_classes):
        super().__init__()
        self.kind, self.config, shape = kind, dict(name=kind), (a.frames, a.img_size, a.size)
        if kind == 'transformers':
            from models import hub_model, transformers
            self.body, _ = hub_model(transformers.VivitForVideoClassification, transformers.VivitConfig, *shape, classes=n_classes, tubelet_size=[2, 16, 16], attn_implementation='sdpa')
            self.head, self.body.classifier = self.body.classifier, nn.Identity()
        elif kind == 'vit-pytorch':
            from models import vit_pytorch_model
            self.body, _ = vit_pytorch_model('factorized_encoder', *shape, 4, classes=n_classes)
            self.head, self.body.mlp_head = self.body.mlp_head, nn.Identity()
        else:
            from torchvision.models.video import r3d_18
            self.body = r3d_18()
            self.head, self.body.fc = nn.Linear(512, n_classes), nn.Identity()
    def forward(self, x):
        if self.kind == 'transformers': return self.head(self.body(pixel_values=x.transpose(1, 2)).logits)
        return self.head(self.body(x))

def learner_of(a, arm, split, seed):
    "A run of one arm"
    o = {**full, **arms[arm], **a.set}
    short = short_side(a.img_size)
    data = dict(split=split, n_frames=a.frames, size=a.img_size, short=short, bs=a.bs, frames=o['frames'], cache=a.cache, num_workers=a.workers, device=a.device)
    dls = video_dataloaders(a.folder, augment=None, **data)
    classes = list(dls.manifest.classes)
    c = o['colour']
    if any(o[k] for k in ('crop', 'flip_x', 'colour', 'n_ops', 'erase')):
        change = Augment(classes, a.img_size, scale=(a.scale, 1.) if o['crop'] else None, flip_x=o['flip_x'], brightness=c, contrast=c, saturation=c, hue=.1*c, n_ops=o['n_ops'], erase=o['erase'])
        dls = video_dataloaders(dls.manifest, augment=change, train_size=short if o['crop'] else None, **data)
    if o['model'] in ('transformers', 'vit-pytorch', 'r3d_18'): model = Peer(o['model'], a, len(classes))
    else: model = create_model(o['model'], size=a.size, n_classes=len(classes), n_frames=a.frames, img_size=a.img_size, drop_path=o['drop_path'],
                               **(dict(heads=4) if o['model'] == 'factorised_dot_product' and sizes[a.size]['heads'] % 2 else {}))
    return video_learner(dls, model, label_smoothing=o['smoothing'], wd=o['wd'], ema=o['ema'], precision='float32' if o['model'] == 'r3d_18' and a.device != 'cuda' else None, cbs=[Mix()] if o['mix'] else []), o

def run(a, arm, split, seed):
    "Train, and test the best epoch; what is kept of it, and the groups of the videos it was tested on"
    set_seed(seed)
    learn, o = learner_of(a, arm, split, seed)
    keep, start = KeepCheckpoints(a.out.parent/f'{a.out.stem}-{os.getpid()}.pth'), time.time()
    with learn.no_bar(), learn.no_logging():
        (learn.fit_cosine if o['schedule'] == 'cosine' else learn.fit_one_cycle)(a.epochs, a.lr, cbs=[keep])
        seconds = time.time() - start
        learn.model.load_state_dict(load_checkpoint(keep.path)['weights'])
        report = learn.test(1 if a.tune else 2)
    for f in keep.path.parent.glob(keep.path.stem + '.*'): f.unlink()
    return dict(arm=arm, split=split, seed=seed, valid=keep.best['accuracy'], last=keep.log[-1]['accuracy'], accuracy=report.accuracy, seconds=round(seconds),
                parameters=sum(p.numel() for p in learn.model.parameters()),
                right=''.join(str(int(r)) for r in report.right)), [f'{v.label}/{v.group}' for v in report.videos]

def difference(runs, groups, arm, base='full', draws=5000):
    "Mean paired difference of an arm's accuracy, its interval, and how many pairs of runs there are"
    both = {(r['split'], r['seed']) for r in runs if r['arm'] == arm} & {(r['split'], r['seed']) for r in runs if r['arm'] == base}
    total, count = {}, {}
    for r in runs:
        if (r['split'], r['seed']) not in both or r['arm'] not in (arm, base): continue
        for group, right in zip(groups[r['split']], map(int, r['right'])):
            g = (r['split'], group)
            total[g] = total.get(g, 0) + right*(1 if r['arm'] == arm else -1)
            count[g] = count.get(g, 0) + (r['arm'] == arm)
    rng, sums, ns = torch.Generator().manual_seed(0), 0, 0
    for label in sorted({g[1].split('/')[0] for g in total}):
        own = [g for g in total if g[1].split('/')[0] == label]
        t, c = (torch.tensor([float(d[g]) for g in own]) for d in (total, count))
        drawn = torch.randint(len(own), (draws, len(own)), generator=rng)
        sums, ns = sums + t[drawn].sum(1), ns + c[drawn].sum(1)
    low, high = torch.quantile(sums/ns, torch.tensor([.025, .975])).tolist()
    return sum(total.values())/sum(count.values()), low, high, len(both)

def table(runs, groups):
    "A line for each arm"
    print(f'{"":34}  runs  accuracy   beside the full recipe        s a run')
    for arm in [k for k in arms if any(r['arm'] == k for r in runs)]:
        own = [r for r in runs if r['arm'] == arm]
        mean, seconds = (sum(r[k] for r in own)/len(own) for k in ('accuracy', 'seconds'))
        beside = ''
        if arm != 'full' and any(r['arm'] == 'full' for r in runs):
            d, low, high, n = difference(runs, groups, arm)
            beside = f'{100*d:+5.1f} ({100*low:+.1f} to {100*high:+.1f})' + ('' if low > 0 or high < 0 else '  no difference seen')
        print(f'{arm:34}  {len(own):4}  {100*mean:6.2f} %   {beside:42}  {seconds:4.0f}')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder', type=Path); p.add_argument('--out', type=Path, default=Path('recipe.json'))
    p.add_argument('--cache', type=Path); p.add_argument('--arms', default=';'.join(arms)); p.add_argument('--splits', default='1,2,3'); p.add_argument('--seeds', default='0,1')
    p.add_argument('--frames', type=int, default=8); p.add_argument('--img-size', type=int, default=64); p.add_argument('--size', default='nano')
    p.add_argument('--epochs', type=int, default=40); p.add_argument('--lr', type=float, default=1e-3); p.add_argument('--bs', type=int, default=16)
    p.add_argument('--scale', type=float, default=.4, help='smallest share of the frame that a crop keeps')
    p.add_argument('--workers', type=int, default=0); p.add_argument('--device'); p.add_argument('--share', default='1/1')
    p.add_argument('--set', type=json.loads, default={}, help='JSON: parts changed in every arm'); p.add_argument('--tune', action='store_true', help='measure on the held-out training groups, not on the test list')
    p.add_argument('--table', action='store_true', help='only print what the file holds')
    a = p.parse_args()
    def load():
        lines = [json.loads(l) for f in sorted(a.out.parent.glob(a.out.stem + '*' + a.out.suffix)) for l in f.read_text().splitlines()]
        return [l for l in lines if 'arm' in l], {l['split']: l['groups'] for l in lines if 'groups' in l}
    done, known = {(r['arm'], r['split'], r['seed']) for r in load()[0]}, set(load()[1])
    jobs = [(arm, split, seed) for seed in map(int, a.seeds.split(',')) for arm in a.arms.split(';') for split in map(int, a.splits.split(','))]
    mine, n = map(int, a.share.split('/'))
    for job in [] if a.table else [j for j in jobs[mine-1::n] if j not in done]:
        r, groups = run(a, *job)
        with a.out.with_stem(a.out.stem + (f'-{mine}' if n > 1 else '')).open('a') as f:
            if r['split'] not in known: f.write(json.dumps(dict(split=r['split'], groups=groups)) + '\n')
            f.write(json.dumps(r) + '\n')
        known.add(r['split'])
        print(f'{r["arm"]}, split {r["split"]}, seed {r["seed"]}: {r["accuracy"]:.2%} in {r["seconds"]} s', flush=True)
    table(*load())
