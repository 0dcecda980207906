"""The text for 25 M weights: python3 text.py DIRECTORY 98000000 writes kernel_train.txt and kernel_valid.txt from the .c, .rst and .txt
files of an unpacked kernel source, in an order shuffled with a fixed seed, every fiftieth file held out."""
import os, random, sys
root, take = sys.argv[1], int(sys.argv[2])
files = sorted(os.path.relpath(os.path.join(d, f), root) for d, _, fs in os.walk(root) for f in fs if f.endswith(('.c', '.rst', '.txt')))
random.Random(18).shuffle(files)
out = {'train': bytearray(), 'valid': bytearray()}; n = 0
for i, f in enumerate(files):
    b = open(os.path.join(root, f), 'rb').read()
    if n + len(b) > take: break
    n += len(b); out['valid' if i % 50 == 0 else 'train'] += b
for k, v in out.items():
    open(f'kernel_{k}.txt', 'wb').write(v); print(k, len(v))
