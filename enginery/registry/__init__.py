"""Published builds on plain S3, which needs no server of its own and is never seen half-written."""

from enginery.registry.channels import ChannelPointer
from enginery.registry.publishing import is_published, publish, require_publishable
from enginery.registry.reading import PublishedBuild, Registry

__all__ = ["ChannelPointer", "PublishedBuild", "Registry", "is_published", "publish", "require_publishable"]
