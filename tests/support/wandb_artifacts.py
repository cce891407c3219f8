"""The artifacts of the stand-in for the W&B server (`wandb_server.py`): GraphQL answers and files.

wandb asks for an address of each file to upload, PUTs the file there, and commits the artifact.
To read one, it asks for a version by its alias, then for the addresses and sizes of its files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

MANIFEST = "wandb_manifest.json"
TIME = "2026-01-01T00:00:00Z"


@dataclass
class OnlineArtifact:
    """One version of an artifact."""

    name: str
    type: str
    digest: str
    version: int
    logged_by: str  # the run's id
    metadata: dict[str, Any]
    aliases: set[str] = field(default_factory=set)
    committed: bool = False
    used_by: list[str] = field(default_factory=list)  # ids of runs
    files: dict[str, bytes] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)  # of files, where the server tells others
    references: dict[str, str] = field(default_factory=dict)  # addresses of files elsewhere
    addresses: dict[str, str] = field(default_factory=dict)  # of files, in place of the store's


class ArtifactStore:
    """All artifacts of one project. An artifact's id is its place in the list."""

    def __init__(self, url: str, entity: str, project: str) -> None:
        self.url, self.entity, self.project = url, entity, project
        self.all: list[OnlineArtifact] = []
        self.downloads: list[str] = []  # names of files, in the order in which they were read

    def of_type(self, kind: str) -> list[OnlineArtifact]:
        """The committed artifacts of a type, oldest first."""
        return [each for each in self.all if each.type == kind and each.committed]

    def transfer(self, method: str, number: str, name: str, body: bytes) -> bytes:
        """Keep a file that is uploaded, or return one."""
        files = self.all[int(number)].files
        if method == "PUT":
            files[name] = body
            return b""
        self.downloads.append(name)
        return files[name]

    def query(self, name: str, given: dict[str, Any]) -> dict[str, Any] | None:
        """Answer a query about artifacts; None where it is about something else."""
        if name == "ArtifactType":
            return {"project": None}  # no collection of this name yet, so any type will do
        if name == "CreateArtifact":
            artifact = self._create(given)
            state = "COMMITTED" if artifact.committed else "PENDING"
            sequence = {"id": artifact.name, "latestArtifact": None}
            about = {"id": self._id(artifact), "state": state, "artifactSequence": sequence}
            return {"createArtifact": {"artifact": about}}
        if name in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            number = given.get("artifactID") or given["artifactManifestID"]
            manifest = {"id": number, "file": self._to_upload(number, MANIFEST)}
            return {name[0].lower() + name[1:]: {"artifactManifest": manifest}}
        if name == "CreateArtifactFiles":
            files = given["artifactFiles"]
            uploads = [self._to_upload(file["artifactID"], file["name"]) for file in files]
            return {"createArtifactFiles": {"files": _edges(uploads)}}
        if name == "CommitArtifact":
            artifact = self.all[int(given["artifactID"])]
            artifact.committed = True
            about = {"id": given["artifactID"], "digest": artifact.digest}
            return {"commitArtifact": {"artifact": about}}
        if name == "UseArtifact":
            artifact = self.all[int(given["artifactID"])]
            artifact.used_by.append(given["runName"])
            return {"useArtifact": {"artifact": self._about(artifact)}}
        if name == "ArtifactMembershipByName":
            collection, _, alias = given["name"].partition(":")
            found = self._find(given, collection, alias)
            member = found and self._membership(found)
            return self._in_project(given, {"artifactCollectionMembership": member})
        if name == "ArtifactMembershipFiles":
            found = self._find(given, given["collection"], given["alias"])
            files = found and {"files": self._files(found, given.get("fileNames"))}
            collection = {"__typename": "ArtifactSequence", "artifactMembership": files}
            return self._in_project(given, {"artifactCollection": collection})
        return None

    def _create(self, given: dict[str, Any]) -> OnlineArtifact:
        """Return the version of this digest: the one that is there, or a new one."""
        names = given.get("artifactCollectionNames") or [given["artifactCollectionName"]]
        versions = [each for each in self.all if each.name == names[0]]
        aliases = {alias["alias"] for alias in given.get("aliases") or []}
        same = [each for each in versions if each.digest == given["digest"]]
        for each in versions:
            each.aliases -= aliases
        artifact = (same or [None])[0]
        if artifact is None:
            artifact = OnlineArtifact(
                names[0],
                given["artifactTypeName"],
                given["digest"],
                len(versions),
                given["runName"],
                json.loads(given.get("metadata") or "{}"),
            )
            self.all.append(artifact)
        artifact.aliases |= aliases
        return artifact

    def _id(self, artifact: OnlineArtifact) -> str:
        return str([id(each) for each in self.all].index(id(artifact)))

    def _address(self, number: str, name: str) -> str:
        return f"{self.url}/artifacts/{number}/{name}"

    def _to_upload(self, number: str, name: str) -> dict[str, Any]:
        return {
            "id": f"{number}/{name}",
            "name": name,
            "displayName": name,
            "uploadUrl": self._address(number, name),
            "uploadHeaders": [],
            "uploadMultipartUrls": None,
            "storagePath": f"{number}/{name}",
            "artifact": {"id": number},
        }

    def _find(self, given: dict[str, Any], name: str, alias: str) -> OnlineArtifact | None:
        for artifact in self.all if self._is_here(given) else ():
            if artifact.name == name and alias in (f"v{artifact.version}", *artifact.aliases):
                return artifact
        return None

    def _is_here(self, given: dict[str, Any]) -> bool:
        return (given["entity"], given["project"]) == (self.entity, self.project)

    def _in_project(self, given: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        return {"project": answer if self._is_here(given) else None}

    def _collection(self, artifact: OnlineArtifact, kind: str) -> dict[str, Any]:
        project = {"id": "2", "internalId": "2", "name": self.project}
        project["entity"] = {"name": self.entity}
        return {"__typename": kind, "name": artifact.name, "project": project}

    def _about(self, artifact: OnlineArtifact) -> dict[str, Any]:
        return {
            "__typename": "Artifact",
            "id": self._id(artifact),
            "artifactSequence": self._collection(artifact, "ArtifactSequence"),
            "versionIndex": artifact.version,
            "artifactType": {"name": artifact.type},
            "description": None,
            "metadata": json.dumps(artifact.metadata),
            "ttlDurationSeconds": -1,
            "ttlIsInherited": False,
            "tags": [],
            "historyStep": None,
            "state": "COMMITTED" if artifact.committed else "PENDING",
            "size": sum(map(len, artifact.files.values())),
            "digest": artifact.digest,
            "commitHash": None,
            "fileCount": len(artifact.files),
            "createdAt": TIME,
            "updatedAt": TIME,
        }

    def _membership(self, artifact: OnlineArtifact) -> dict[str, Any]:
        aliases = [
            {"__typename": "ArtifactAlias", "id": alias, "alias": alias}
            for alias in sorted(artifact.aliases)
        ]
        return {
            "__typename": "ArtifactCollectionMembership",
            "id": self._id(artifact),
            "versionIndex": artifact.version,
            "createdAt": TIME,
            "aliases": aliases,
            "artifactCollection": self._collection(artifact, "ArtifactSequence"),
            "artifact": self._about(artifact),
        }

    def _files(self, artifact: OnlineArtifact, names: list[str] | None) -> dict[str, Any]:
        chosen = [each for each in artifact.files if each != MANIFEST]
        files = []
        for name in chosen if names is None else [each for each in chosen if each in names]:
            address = self._address(self._id(artifact), name)
            reference = artifact.references.get(name)
            files.append(
                {
                    "__typename": "File",
                    "id": name,
                    "name": name,
                    "url": reference or f"{address}?login",
                    "directUrl": reference or artifact.addresses.get(name, address),
                    "sizeBytes": artifact.sizes.get(name, len(artifact.files[name])),
                    "storagePath": None,
                    "mimetype": None,
                    "updatedAt": TIME,
                    "digest": None,
                    "md5": None,
                }
            )
        page = {"__typename": "PageInfo", "endCursor": "", "hasNextPage": False}
        return {**_edges(files), "totalCount": len(files), "pageInfo": page}


def _edges(nodes: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return {"edges": [{"node": node} for node in nodes]}
