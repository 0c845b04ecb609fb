"""All code that talks to S3.

A `Prefix` gives access to the objects under an address. A file is uploaded or downloaded completely and checked, or not
at all. Requests are retried while a server cannot be reached.

    prefix = Prefix(Address.parse("s3://engines/prod"))
    prefix.put_bytes("hello.txt", b"hello", if_none_match=True)
    download_file(prefix, "hello.txt", Path("hello.txt"), size=5)
"""

from typing import TYPE_CHECKING

from enginery.core.late import door

if TYPE_CHECKING:
    from enginery.core.s3.address import Address, address_mistake, is_address
    from enginery.core.s3.client import close_clients, connection, endpoint, patience, patiently
    from enginery.core.s3.download import digest_object, download_file
    from enginery.core.s3.errors import Gone, PreconditionFailed, is_denied, translated_errors
    from enginery.core.s3.objects import Content, ObjectInfo, Prefix
    from enginery.core.s3.probe import PROBE, honours_conditional_writes, probes, require_listable
    from enginery.core.s3.transfer import Download, Upload, download_all, upload_all
    from enginery.core.s3.upload import UnfinishedUpload, abort_upload, unfinished_uploads, upload_file
else:
    __getattr__ = door(__name__, __file__)
