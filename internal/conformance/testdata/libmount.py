"""What crun's test_mounts.py wants of util-linux' module, which Debian does not have."""


class Mount:
    def __init__(self, line):
        # See proc_pid_mountinfo(5): "... 5 TARGET VFS-OPTIONS [TAGS...] - TYPE SOURCE FS-OPTIONS"
        fields = line.split(" ")
        self.target, self.vfs_options = fields[4], fields[5]
        self.fs_options = fields[fields.index("-") + 3].strip()


class Table:
    def __init__(self, file):
        with open(file) as f:
            self.mounts = [Mount(line) for line in f]

    def find_target(self, target):
        return [m for m in self.mounts if m.target == target][-1]
