"""Both request signatures, written from the specification of the headers; nothing of ours inside."""
import hashlib
import hmac
import time
from urllib.parse import quote, unquote, unquote_plus

EMPTY = hashlib.sha256(b"").hexdigest()


def _mac(key, data):
    return hmac.new(key, data.encode() if isinstance(data, str) else data, hashlib.sha256)


def _encode(text):
    return quote(text, safe="-_.~")


def canonical_request(method, path, query, headers, body):
    """headers: names in lower case, all of them are signed. Returns (text, signed names)."""
    uri = "/".join(_encode(segment) for segment in unquote(path).split("/"))
    if not uri.endswith("/"):
        uri += "/"
    pairs = []
    for part in filter(None, query.split("&")):
        name, _, value = part.partition("=")
        pairs.append((unquote_plus(name), unquote_plus(value)))
    canonical_query = "&".join(f"{_encode(n)}={_encode(v)}" for n, v in sorted(pairs))
    names = sorted(headers)
    lines = "".join(f"{name}:{headers[name].strip()}\n" for name in names)
    signed = ";".join(names)
    if not body:
        digest = EMPTY
    else:
        digest = headers.get("x-sdk-content-sha256") or hashlib.sha256(body).hexdigest()
    return "\n".join([method.upper(), uri, canonical_query, lines, signed, digest]), signed


def derived_key(ak, sk, info):
    prk = _mac(ak.encode(), sk).digest()
    return _mac(prk, info.encode() + b"\x01").hexdigest()


def sign(ak, sk, method, path, query, headers, body, scheme="SDK-HMAC-SHA256", region="region-1",
         service="iotdm"):
    """The value of Authorization. headers must hold host and x-sdk-date."""
    request, signed = canonical_request(method, path, query, headers, body)
    date = headers["x-sdk-date"]
    digest = hashlib.sha256(request.encode()).hexdigest()
    if scheme == "SDK-HMAC-SHA256":
        signature = _mac(sk.encode(), "\n".join([scheme, date, digest])).hexdigest()
        return f"{scheme} Access={ak}, SignedHeaders={signed}, Signature={signature}"
    info = f"{date[:8]}/{region}/{service}"
    key = derived_key(ak, sk, info)
    signature = _mac(key.encode(), "\n".join([scheme, date, info, digest])).hexdigest()
    return f"{scheme} Credential={ak}/{info}, SignedHeaders={signed}, Signature={signature}"


def sdk_date(offset_s=0):
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + offset_s))
