"What `prepare.py` and `check.py` both need to know of a notebook: its order, its code, what it imports, and whether its outputs are fresh."
import hashlib, json, re
from pathlib import Path

root = Path(__file__).resolve().parent.parent
nbs = root/'nbs'

def rooms():
    "Every notebook in reading order; `index` comes last, because it may use all the others"
    return sorted(nbs.glob('[0-9][0-9]_*.ipynb')) + [p for p in [nbs/'index.ipynb'] if p.exists()]

def load(path): return json.loads(path.read_text(encoding='utf-8'))
def save(nb, path): path.write_text(json.dumps(nb, indent=1, sort_keys=True, ensure_ascii=False) + '\n', encoding='utf-8')
def source(cell): return ''.join(cell['source'])
def code_cells(nb): return [c for c in nb['cells'] if c['cell_type'] == 'code']
def number(path): return int(path.stem[:2]) if path.stem[:2].isdigit() else 100
def directives(src): return re.findall(r'^#\|\s*(\S+)', src, re.M)
def is_exported(src): return any(d in ('export', 'exports', 'exporti') for d in directives(src))
def is_hidden(src): return 'hide' in directives(src)

def module_of(path):
    "The module a notebook exports, or None for an experiment"
    found = re.search(r'^#\|\s*default_exp\s+(\w+)', '\n'.join(map(source, code_cells(load(path)))), re.M)
    return found and found.group(1)

def imports(src): return set(re.findall(r'(?:from|import)\s+vivit_tutorial\.(\w+)', src))

def fresh_hash(path):
    "A hash of a notebook's code and of the exported code of every module that it imports, however far back"
    modules = {module_of(p): p for p in rooms()}
    seen, todo = {}, set()
    code = [source(c) for c in code_cells(load(path))]
    for src in code: todo |= imports(src)
    while todo:
        name = todo.pop()
        if name in seen or name not in modules: continue
        seen[name] = [s for s in map(source, code_cells(load(modules[name]))) if is_exported(s)]
        for src in seen[name]: todo |= imports(src)
    return hashlib.sha256(json.dumps([code, sorted(seen.items())]).encode()).hexdigest()[:16]

def is_fresh(path): return load(path)['metadata'].get('fresh') == fresh_hash(path)

def readme(index):
    "README.md from the index notebook: its markdown, its code in fences, its printed outputs"
    out = []
    for c in index['cells']:
        src = source(c).strip()
        if c['cell_type'] == 'markdown': out.append(src)
        elif c['cell_type'] == 'code' and src and not is_hidden(src):
            out.append('```python\n' + re.sub(r'^#\|.*\n', '', src, flags=re.M) + '\n```')
            text = ''.join(''.join(o.get('text', o.get('data', {}).get('text/plain', ''))) for o in c['outputs']
                           if not any(k.startswith('image') for k in o.get('data', {})))
            if text.strip(): out.append('```text\n' + text.strip() + '\n```')
    text = re.sub(r'\]\((?!\.\./|\w+:|#)', '](nbs/', '\n\n'.join(out))      # links start at the notebook's folder; README stands above it
    return text.replace('](../', '](') + '\n'
