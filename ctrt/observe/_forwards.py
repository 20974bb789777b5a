"""Rules of nftables that send a port elsewhere: destination NAT, as engines publish ports by it.

Read as the kernel has them, a list of expressions for each rule: what loads a part of the packet
into a register, what compares it, and the translation, either nft's own or the one of iptables.

Source: nft(8), linux/netfilter/nf_tables.h, struct nf_nat_range2 of linux/netfilter/nf_nat.h.
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_PROTOCOLS = {6: "tcp", 17: "udp", 132: "sctp"}
_IP6 = 10
_RANGE2 = struct.Struct("=I16s16s2s")


class Forward(NamedTuple):
    """A port ("tcp" 8080, of any address) whose packets go to an address and port of elsewhere.

    `to_port` is 0 where the rule leaves it as it is.
    """

    protocol: str
    port: int
    to: str
    to_port: int


def forwards(rules: Iterable[Any]) -> tuple[Forward, ...]:
    """The forwards among the rules of a namespace (pyroute2's messages), each once, by port."""
    return tuple(sorted({found for rule in rules if (found := _forward(rule)) is not None}))


def _forward(rule: Any) -> Forward | None:
    protocol, port = "", 0
    loaded = ""
    registers: dict[str, bytes] = {}
    for expression in rule.get_attr("NFTA_RULE_EXPRESSIONS") or ():
        name, data = expression.get_attr("NFTA_EXPR_NAME"), expression.get_attr("NFTA_EXPR_DATA")
        if data is None:
            continue
        if name == "meta":
            l4 = data.get_attr("NFTA_META_KEY") == "NFT_META_L4PROTO"
            loaded = "protocol" if l4 else ""
        elif name == "payload":
            place = (
                data.get_attr("NFTA_PAYLOAD_BASE"), data.get_attr("NFTA_PAYLOAD_OFFSET"),
                data.get_attr("NFTA_PAYLOAD_LEN"),
            )  # fmt: skip
            loaded = "port" if place == ("NFT_PAYLOAD_TRANSPORT_HEADER", 2, 2) else ""
        elif name == "cmp" and data.get_attr("NFTA_CMP_OP") == "NFT_CMP_EQ":
            value = data.get_attr("NFTA_CMP_DATA").get_attr("NFTA_DATA_VALUE") or b""
            if loaded == "protocol" and value:
                protocol = _PROTOCOLS.get(value[0], "")
            elif loaded == "port":
                port = int.from_bytes(value[:2], "big")
        elif name == "immediate":
            value = data.get_attr("NFTA_IMMEDIATE_DATA").get_attr("NFTA_DATA_VALUE")
            if value is not None:
                registers[data.get_attr("NFTA_IMMEDIATE_DREG")] = value
        elif name == "nat" and "DNAT" in str(data.get_attr("NFTA_NAT_TYPE")):
            address = registers.get(data.get_attr("NFTA_NAT_REG_ADDR_MIN"), b"")
            other = registers.get(data.get_attr("NFTA_NAT_REG_PROTO_MIN"), b"")
            return _made(protocol, port, address, other[:2])
        elif name == "target" and data.get_attr("NFTA_TARGET_NAME") == "DNAT":
            info = bytes.fromhex(str(data.get_attr("NFTA_TARGET_INFO")).replace(":", ""))
            if data.get_attr("NFTA_TARGET_REV") != 2 or len(info) < _RANGE2.size:
                return None
            _, address, _, other = _RANGE2.unpack_from(info)
            size = 16 if rule["nfgen_family"] == _IP6 else 4
            return _made(protocol, port, address[:size], other)
    return None


def _made(protocol: str, port: int, address: bytes, other: bytes) -> Forward | None:
    if not protocol or not port or len(address) not in (4, 16):
        return None
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    return Forward(protocol, port, socket.inet_ntop(family, address), int.from_bytes(other, "big"))
