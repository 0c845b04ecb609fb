"""Everything that talks to S3.

A `Prefix` is the objects under an address. Files are uploaded and downloaded complete and checked, or not at all. While
a server cannot be reached, requests are retried.

    prefix = Prefix(Address.parse("s3://engines/prod"))
    prefix.put_bytes("hello.txt", b"hello", if_none_match=True)
    download_file(prefix, "hello.txt", Path("hello.txt"), size=5)
"""

from enginery.core.s3.client import close_clients, connection, endpoint, patience, patiently, shared_client
from enginery.core.s3.download import digest_object, download_file
from enginery.core.s3.errors import Gone, PreconditionFailed, is_denied, translated_errors
from enginery.core.s3.objects import PROBE, Address, Content, ObjectInfo, Prefix, honours_conditional_writes
from enginery.core.s3.transfer import Download, Upload, download_all, upload_all
from enginery.core.s3.upload import UnfinishedUpload, abort_upload, probes, unfinished_uploads, upload_file

__all__ = [
    "PROBE",
    "Address",
    "Content",
    "Download",
    "Gone",
    "ObjectInfo",
    "PreconditionFailed",
    "Prefix",
    "UnfinishedUpload",
    "Upload",
    "abort_upload",
    "close_clients",
    "connection",
    "digest_object",
    "download_all",
    "download_file",
    "endpoint",
    "honours_conditional_writes",
    "is_denied",
    "patience",
    "patiently",
    "probes",
    "shared_client",
    "translated_errors",
    "unfinished_uploads",
    "upload_all",
    "upload_file",
]
