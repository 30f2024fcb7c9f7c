"""Python's own HTTP clients: usage: client.py HOST PORT ROOT.PEM"""
import hashlib
import http.client
import json
import os
import ssl
import sys
import urllib.error
import urllib.request

host, port, root = sys.argv[1], int(sys.argv[2]), sys.argv[3]
context = ssl.create_default_context(cafile=root)

# http.client, one connection for everything.
conn = http.client.HTTPSConnection(host, port, context=context, timeout=20)
conn.request("GET", "/hello?x=1", headers={"X-Own": "yes"})
res = conn.getresponse()
seen = json.load(res)
assert res.status == 200 and res.version == 11, (res.status, res.version)
assert seen["target"] == "/hello?x=1" and seen["header"]["X-Own"] == ["yes"], seen
sock = conn.sock

conn.request("HEAD", "/hello")
res = conn.getresponse()
assert res.status == 200 and res.read() == b"" and int(res.headers["Content-Length"]) > 0, res.headers

body = os.urandom(3 << 20)
want = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
conn.request("POST", "/count", body=body)
assert json.load(conn.getresponse()) == want
conn.request("PUT", "/count", body=iter([body[:1000], body[1000:]]), encode_chunked=True, headers={"Transfer-Encoding": "chunked"})
assert json.load(conn.getresponse()) == want
conn.request("GET", "/big?n=%d" % (8 << 20))
assert len(conn.getresponse().read()) == 8 << 20
conn.request("DELETE", "/status?code=204")
res = conn.getresponse()
assert res.status == 204 and res.read() == b"", res.status
assert conn.sock is sock, "the connection was not kept"
conn.close()

# urllib, a connection for each request.
base = "https://%s:%d" % (host, port)
with urllib.request.urlopen(base + "/hello", context=context, timeout=20) as res:
    assert res.status == 200 and json.load(res)["target"] == "/hello"
with urllib.request.urlopen(urllib.request.Request(base + "/count", data=body), context=context, timeout=20) as res:
    assert json.load(res) == want
try:
    urllib.request.urlopen(base + "/status?code=404", context=context, timeout=20)
    raise AssertionError("404 was no error")
except urllib.error.HTTPError as err:
    assert err.code == 404 and err.headers["X-Backend"] == "go", err

# An unknown root is refused by the client, so the check above is one.
try:
    urllib.request.urlopen(base + "/hello", context=ssl.create_default_context(), timeout=20)
    raise AssertionError("an unknown root was accepted")
except urllib.error.URLError as err:
    assert isinstance(err.reason, ssl.SSLCertVerificationError), err
