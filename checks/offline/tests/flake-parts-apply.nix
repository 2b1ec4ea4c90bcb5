{ word }: { flake.applied = word; }
