#!/usr/bin/env python3
"""Reading clips beside what others wrote: speed as ratios, and whether the frames are the right ones.

    python benchmarks/loading.py FOLDER [--clips N] [--rounds N] [--json FILE]

FOLDER holds videos, in any layout; N of them, evenly chosen, are read as they are and as H.264 in mp4. One process and one thread; the arms take turns,
round by round, and a ratio is taken within each round. Printed: the median ratio to the usual PyAV loop, its 95 % interval (bootstrap of the median),
clips a second and core, and on how many clips a frame was not the one of that number in the sequential decode. Others take part where they are installed:
pip install opencv-python-headless decord torchcodec
"""
import argparse, json, os, platform, random, statistics, tempfile, time
os.environ['OMP_NUM_THREADS'] = '1'
from functools import partial
from pathlib import Path
import av, numpy as np, torch
from torch.nn.functional import interpolate
from vivit_tutorial.video import probe, read_frames
from vivit_tutorial.clips import uniform
from vivit_tutorial.manifest import suffixes
from vivit_tutorial.cache import Cache
from vivit_tutorial.data import short_side, square
from vivit_tutorial.kinetics import reencode_video

def resized(frames, size): # `(t, h, w, c)` uint8 → `(c, t, size, size)`: shorter side 8/7 of size, then the middle
    x = torch.as_tensor(frames).permute(0, 3, 1, 2)
    r = short_side(size)/min(x.shape[2:])
    x = interpolate(x.float(), [round(n*r) for n in x.shape[2:]], mode='bilinear', antialias=True).round_().byte()
    return x[:, :, *square(size, False)(*x.shape[2:])].transpose(0, 1)

def ours(path, k, size): return read_frames(path, partial(uniform, k=k), short_side(size), square(size, False))

def usual(path, k, size):
    "Wanted frames at full size to NumPy, then resized: what most loaders do with PyAV"
    with av.open(str(path)) as box:
        stream, got = box.streams.video[0], []
        stream.codec_context.thread_count = 1
        idxs = uniform(stream.frames, k)
        for i, frame in enumerate(box.decode(stream)):
            got += [frame.to_ndarray(format='rgb24')]*idxs.count(i)
            if i == idxs[-1]: break
    return resized(np.stack(got), size)

def opencv(path, k, size):
    import cv2
    cv2.setNumThreads(1)
    box, got, i = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_N_THREADS, 1]), [], -1
    idxs = uniform(int(box.get(cv2.CAP_PROP_FRAME_COUNT)), k)
    while i < idxs[-1] and box.grab():
        i += 1
        if i in idxs:
            frame = cv2.cvtColor(box.retrieve()[1], cv2.COLOR_BGR2RGB)
            r = short_side(size)/min(frame.shape[:2])
            frame = cv2.resize(frame, None, fx=r, fy=r, interpolation=cv2.INTER_AREA)
            got += [frame[square(size, False)(*frame.shape[:2])]]*idxs.count(i)
    return torch.from_numpy(np.stack(got)).permute(3, 0, 1, 2)

def decord(path, k, size):
    import decord
    box = decord.VideoReader(str(path), num_threads=1)
    h, w = box[0].shape[:2]
    r = short_side(size)/min(h, w)
    box = decord.VideoReader(str(path), num_threads=1, width=round(w*r), height=round(h*r))
    frames = box.get_batch(uniform(len(box), k)).asnumpy()
    return torch.from_numpy(frames[:, *square(size, False)(*frames.shape[1:3])]).permute(3, 0, 1, 2)

def torchcodec(path, k, size, mode='approximate'):
    from torchcodec.decoders import VideoDecoder
    box = VideoDecoder(str(path), seek_mode=mode, num_ffmpeg_threads=1, dimension_order='NHWC')
    return resized(box.get_frames_at(uniform(len(box), k)).data, size)

def right(clip, path, k, size): # is each frame nearest to the one of its number, among those around it?
    """The numbers may be those of as many frames as the header announces, or as there are. Colours and filters differ between libraries; a neighbouring
    frame differs more, where anything moves."""
    every = read_frames(path, None, short_side(size), square(size, False))                                       # c t h w
    n = every.shape[1]
    small = lambda x: interpolate(x.float(), (28, 28), mode='area').flatten(1)                            # c h w → numbers
    every, pictures = small(every.transpose(0, 1)), small(clip.transpose(0, 1))
    def follows(idxs):
        near = [(every[max(0, i-3):i+4] - p).abs().mean(1) for p, i in zip(pictures, idxs)]
        return all(d[min(i, 3)] <= d.min() + .5 for d, i in zip(near, idxs))
    return any(max(idxs := uniform(m, k)) < n and follows(idxs) for m in {n, probe(path).n_frames or n})

def seconds(arm, videos, k, size):
    start = time.process_time()
    for v in videos: arm(v, k, size)
    return time.process_time() - start

def table(arms, videos, k, size, rounds):
    for name, arm in list(arms.items()):                                                                  # warm up; who is not there is left out
        try: arm(videos[0], k, size)
        except ImportError as e: print(f'    {name}: not installed ({e.name})'); arms = {n: a for n, a in arms.items() if n != name}
    spent = {name: [] for name in arms}
    for _ in range(rounds):
        for name in random.sample(list(arms), len(arms)): spent[name].append(seconds(arms[name], videos, k, size))
    rows = []
    for name, arm in arms.items():
        ratios = [u/t for u, t in zip(spent['usual PyAV loop'], spent[name])]
        low, high = np.quantile([statistics.median(random.choices(ratios, k=rounds)) for _ in range(2000)], [.025, .975])
        wrong = sum(not right(arm(v, k, size), v, k, size) for v in videos)
        rows.append(dict(arm=name, ratio=statistics.median(ratios), low=low, high=high, clips_per_s=len(videos)/statistics.median(spent[name]), wrong=wrong))
        print(f'    {name:28} {rows[-1]["ratio"]:6.2f}  ({low:.2f}-{high:.2f})  {rows[-1]["clips_per_s"]:7.1f} clips/s  {wrong} of {len(videos)} clips with a wrong frame', flush=True)
    return rows

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder', type=Path)
    p.add_argument('--clips', type=int, default=24)
    p.add_argument('--rounds', type=int, default=7)
    p.add_argument('--json', type=Path)
    a = p.parse_args()
    torch.set_num_threads(1)
    random.seed(0)
    found = sorted(f for f in a.folder.rglob('*') if f.suffix.lower() in suffixes)
    if not found: p.error(f'{a.folder}: no videos there')
    found, results = found[::max(1, len(found)//a.clips)][:a.clips], {}
    print(f'{platform.processor() or platform.machine()}, torch {torch.__version__}, PyAV {av.__version__}, {len(found)} clips')
    with tempfile.TemporaryDirectory() as tmp:
        h264 = [Path(tmp)/f'{i}.mp4' for i in range(len(found))]
        for source, mp4 in zip(found, h264): reencode_video(source, mp4, 240)
        for kind, videos in (('as they are', found), ('H.264 mp4', h264)):
            for k, size in ((16, 112), (32, 224)):
                cache = Cache(Path(tmp)/kind, short_side(size), None)
                arms = {'usual PyAV loop': usual, 'vivit_tutorial': ours, 'OpenCV': opencv, 'decord': decord, 'torchcodec, approximate': torchcodec,
                        'torchcodec, exact': partial(torchcodec, mode='exact'),
                        'vivit_tutorial, cached': lambda v, k, size: cache.read(v, partial(uniform, k=k), square(size, False))}
                for v in videos: arms['vivit_tutorial, cached'](v, k, size)                                # filled
                print(f'{kind}, {k} frames of {size}×{size}:')
                results[f'{kind} {k}x{size}'] = table(arms, videos, k, size, a.rounds)
    if a.json: a.json.write_text(json.dumps(results, indent=1))

if __name__ == '__main__': main()
