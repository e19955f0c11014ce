#!/usr/bin/env python3
"""Every check of the repository, one line each, and a closing line `N passed, N failed`.

    python tools/check.py [NOTEBOOK ...]     # the named notebooks alone
"""
import filecmp, importlib, inspect, os, re, shutil, subprocess, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from fastcore.docments import docments
from notebooks import directives, imports, is_exported, is_fresh, is_hidden, load, module_of, nbs, number, readme, root, rooms, source

failed, passed = [], []
def report(name, faults):
    "Print and count one check; `faults` are the lines that say what is wrong and where"
    (failed if faults else passed).append(name)
    print(f'{"FAILED" if faults else "ok    "} {name}', *[f'       {f}' for f in faults], sep='\n', flush=True)

# one notebook
checks_something = re.compile(r'\bassert\b|\btest_\w+\(|expect_fail|ExceptionExpected|assert_close')
longest_cell, longest_run, checked_share, kilobytes, kilobytes_experiment = 25, 3, .35, 150, 300
longest_module = 220   # aim at 120; learner and commands are the two that are longer than 140

def budgets(path):
    "Size, length of cells, code cells in a row, share of cells that check, exported lines (DESIGN of a chapter: CONTRIBUTING.md)"
    nb, faults, run, code, checks, exported = load(path), [], 0, 0, 0, 0
    limit = kilobytes if module_of(path) else kilobytes_experiment
    if (size := path.stat().st_size/1000) > limit: faults.append(f'{size:.0f} kB, at most {limit}')
    for i, cell in enumerate(nb['cells']):
        src = source(cell)
        lines = [l for l in src.splitlines() if l.strip() and not l.startswith('#|')]
        if cell['cell_type'] == 'markdown': run = 0
        if cell['cell_type'] != 'code' or not lines: continue
        if is_exported(src): exported += len(lines)
        if is_hidden(src): continue
        run, code, checks = run + 1, code + 1, checks + bool(checks_something.search(src))
        if len(lines) > longest_cell: faults.append(f'cell {i}: {len(lines)} lines, at most {longest_cell}')
        if run == longest_run + 1: faults.append(f'cell {i}: more than {longest_run} code cells in a row without a word between them')
    if path.stem != 'index' and checks < checked_share*code: faults.append(f'{checks} of {code} code cells check something, at least {checked_share:.0%}')
    if exported > longest_module: faults.append(f'{exported} exported lines, at most {longest_module}')
    return faults

def outputs(path):
    "No error, warning, machine path or figure without alt text; every output belongs to the code that stands there"
    faults = []
    for i, cell in enumerate(load(path)['cells']):
        src = source(cell)
        if cell['cell_type'] == 'markdown':
            if re.search(r'!\[\s*\]\(', src): faults.append(f'cell {i}: a picture without alt text')
            continue
        for o in cell.get('outputs', []):
            text = ''.join(o.get('text', [])) + ''.join(o.get('data', {}).get('text/plain', []))
            if o['output_type'] == 'error' or 'Traceback' in text: faults.append(f'cell {i}: an error in its output')
            if 'Warning' in text or o.get('name') == 'stderr': faults.append(f'cell {i}: a warning in its output')
            if re.search(r'/(work|tmp|root|home|Users)/', text): faults.append(f'cell {i}: a path of this machine in its output')
            if any(k.startswith('image') for k in o.get('data', {})) and 'fig-alt:' not in directives(src): faults.append(f'cell {i}: a figure without #| fig-alt')
    if not is_fresh(path): faults.append('its outputs do not belong to its code: run `make prepare`')
    return faults

def directions(path, order):
    "An exported cell imports modules of lower numbers only, by name; model chapters (below 30) import no fastai"
    faults = []
    for i, cell in enumerate(load(path)['cells']):
        src = source(cell)
        if cell['cell_type'] != 'code' or not is_exported(src): continue
        if re.search(r'from vivit_tutorial\S* import \*', src): faults.append(f'cell {i}: a star import inside the package')
        if number(path) < 30 and re.search(r'^\s*(from|import) fastai', src, re.M): faults.append(f'cell {i}: imports fastai, which begins in part 3')
        faults += [f'cell {i}: imports {m}, which is no earlier chapter' for m in imports(src) if order.get(m, 100) >= number(path)]
    return faults

def documented(path):
    "Every public function and class has a docstring, and every parameter of it a comment"
    faults, name = [], module_of(path)
    if not name: return faults
    module = importlib.import_module(f'vivit_tutorial.{name}')
    for public in getattr(module, '__all__', []):
        thing = getattr(module, public)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)): continue
        if not inspect.getdoc(thing): faults.append(f'{public} has no docstring')
        maker = thing.__init__ if inspect.isclass(thing) and '__init__' in vars(thing) else thing
        if not inspect.isfunction(maker): continue
        named = {p.name for p in inspect.signature(maker).parameters.values() if p.kind is not p.VAR_KEYWORD and p.kind is not p.VAR_POSITIONAL}
        for arg, doc in docments(maker, returns=False).items():
            if not doc and arg in named - {'self'}: faults.append(f'{public}: nothing is said of {arg}')
    return faults

def run_notebook(path):
    "nbdev_test on one notebook; on failure the cell and the last line of its error"
    start = time.time()
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'OMP_WAIT_POLICY': 'passive', 'MPLBACKEND': 'agg'}
    done = subprocess.run([str(Path(sys.executable).parent/'nbdev_test'), '--path', str(path)],
                          cwd=root, env=env, capture_output=True, text=True)
    name = f'nbdev_test {path.name} ({time.time()-start:.0f} s)'
    if not done.returncode: return name, []
    lines = [re.sub(r'\x1b\[[0-9;]*m', '', l).strip() for l in (done.stdout + done.stderr).splitlines()]
    where = next((l for l in lines if re.search(r'cell \d+|\.ipynb', l)), '')
    what = [l for l in lines if re.match(r'\w*(Error|Exception|Interrupt)\b', l)]
    return name, [f'{where}: {what[-1] if what else (lines or ["no output"])[-1]}']

# the whole
def differences(a, b):
    "The files in which two folders differ"
    d = filecmp.dircmp(a, b, ignore=['__pycache__'])
    return d.left_only + d.right_only + d.diff_files

def in_sync(tmp):
    "Export, clean and write README in a copy, and compare"
    copy = Path(tmp)/'copy'
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns('.venv', '.git', '_docs', 'demo', '.ipynb_checkpoints', '*.pth'))
    shutil.rmtree(copy/'vivit_tutorial'); (copy/'vivit_tutorial').mkdir()
    for extra in ('__init__.py', 'py.typed'):
        if (root/'vivit_tutorial'/extra).exists(): shutil.copy(root/'vivit_tutorial'/extra, copy/'vivit_tutorial')
    for verb in ('nbdev_export', 'nbdev_clean'):
        subprocess.run([str(Path(sys.executable).parent/verb)], cwd=copy, check=True, capture_output=True)
    yield 'modules are what the notebooks export', differences(root/'vivit_tutorial', copy/'vivit_tutorial')
    yield 'notebooks are clean', [n for n in differences(nbs, copy/'nbs') if n.endswith('.ipynb')]
    if (nbs/'index.ipynb').exists():
        same = (root/'README.md').exists() and (root/'README.md').read_text(encoding='utf-8') == readme(load(nbs/'index.ipynb'))
        yield 'README.md is nbs/index.ipynb', [] if same else ['run `make prepare`']

def main(names):
    os.chdir(root)
    paths = [p for p in rooms() if not names or p.name in {Path(n).name for n in names}]
    order = {module_of(p): number(p) for p in rooms() if module_of(p)}
    if not names:
        with tempfile.TemporaryDirectory() as tmp:
            for name, faults in in_sync(tmp): report(name, faults)
    for path in paths:
        for check, faults in (('imports', directions(path, order)), ('budgets', budgets(path)), ('outputs', outputs(path)), ('docments', documented(path))):
            report(f'{check} of {path.name}', faults)
    with ThreadPoolExecutor(2) as pool:
        for name, faults in pool.map(run_notebook, paths): report(name, faults)
    print(f'{len(passed)} passed, {len(failed)} failed')
    return bool(failed)

if __name__ == '__main__': sys.exit(main(sys.argv[1:]))
