#!/usr/bin/env python3
"""Make the repository say one thing: run the notebooks whose code changed, keep their outputs, export, clean, write README.

    python tools/prepare.py                  # everything that is not fresh; a second run changes nothing
    python tools/prepare.py NOTEBOOK ...     # these notebooks alone, fresh or not
"""
import os, re, sys, time
from pathlib import Path
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbdev.clean import nbdev_clean
from nbdev.doclinks import nbdev_export
from nbdev.export import nb_export
from notebooks import directives, fresh_hash, is_fresh, load, nbs, readme, root, rooms, save

def fold_answers(nb):
    "Answers open at a click in JupyterLab, as `#| code-fold` folds them on the site"
    for c in nb.cells:
        if c.cell_type == 'code' and 'code-fold:' in directives(c.source): c.metadata['jupyter'] = {'source_hidden': True}

def join_streams(nb):
    "Prints of one cell arrive in pieces whose number depends on timing: join them"
    for c in nb.cells:
        if c.cell_type != 'code': continue
        kept = []
        for o in c.outputs:
            if kept and o.output_type == kept[-1].output_type == 'stream' and o.name == kept[-1].name: kept[-1].text += o.text
            else: kept.append(o)
        c.outputs = kept

def run(path):
    "Execute every cell in order in a new kernel, and keep the outputs with the hash of the code that made them"
    nb, start = nbformat.read(path, as_version=4), time.time()
    for c in nb.cells:
        if 'nbdev_export(' in c.source: c.metadata['tags'] = ['skip-execution']   # as nbdev_test does
    try: NotebookClient(nb, timeout=3600, kernel_name='python3', resources={'metadata': {'path': str(nbs)}}).execute()
    except CellExecutionError as e: raise SystemExit(re.sub(r'\x1b\[[0-9;]*m', '', f'{path.name}: a cell failed\n{e}'))
    fold_answers(nb); join_streams(nb)
    nb.metadata['kernelspec'] = dict(display_name='python3', language='python', name='python3')
    nbformat.write(nb, path)
    raw = load(path); raw['metadata']['fresh'] = fresh_hash(path); save(raw, path)
    print(f'ran {path.name} in {time.time()-start:.0f} s', flush=True)

def main(names):
    os.chdir(root)
    os.environ.setdefault('OMP_WAIT_POLICY', 'passive')   # for the kernels: idle threads sleep
    named = [p for p in rooms() if p.name in {Path(n).name for n in names}]
    if len(named) < len(names): raise SystemExit(f'{" ".join(names)}: not all of them are notebooks in nbs/')
    if not names: nbdev_export()
    for path in named: nb_export(path, root/'vivit_tutorial')
    for path in named or [p for p in rooms() if not is_fresh(p)]: run(path)
    for path in named or rooms(): nbdev_clean(str(path))
    index = nbs/'index.ipynb'
    if not names and index.exists(): (root/'README.md').write_text(readme(load(index)), encoding='utf-8')

if __name__ == '__main__': main(sys.argv[1:])
