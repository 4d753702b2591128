"""Every error that a user can meet, in one hierarchy.

    VdbackupError           exit status 1
    ├── UsageError          2   the command line asks for something that does not exist
    ├── Cancelled           130 the user stopped it; not a failure
    ├── Unexpected          a fault of this program
    ├── DiskError           a virtual-disk file is not what it should be
    ├── SourceError         what is to be backed up cannot be read
    ├── RepositoryError     the folder that holds the backups
    │   └── StorageError    what the operating system says of the storage
    ├── BackupError         capture, merge, delete: refused or failed
    ├── AgentError          what only root may do to a volume in use: refused or failed
    └── RecoveryError       restore, boot, browse, verify: refused or failed

Each family has a file of its own; whoever raises or catches one imports it from here.

Each carries two sentences: `title` says what is wrong, `advice` says what to do. Where this program
itself has something for it, `remedy` says which, and each front end names it in words of its own: a
command or an option, a button or a menu. `code` says to another program which class it is: it stays
the same when a class gets another name, and `resources/manual/json.md` lists all of them. Whatever
else is worth knowing goes to the log (`logging`), never to the user.
"""

from vdbackup.errors.agent import *
from vdbackup.errors.backup import *
from vdbackup.errors.base import *
from vdbackup.errors.disks import *
from vdbackup.errors.recovery import *
from vdbackup.errors.repository import *
from vdbackup.errors.sources import *
from vdbackup.errors.storage import *
