"""Drives clients/python/postern.py: helper.py OPTIONS, then a command per
line; an answer per line."""
import json
import os
import sys
import threading
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "clients", "python"))
import postern

o = json.loads(sys.argv[1])
dns = o["dns"]


def lookup(name):
    if name not in dns:
        raise OSError("Name or service not known")
    if dns[name] is None:
        threading.Event().wait()  # nobody answers
    return dns[name]


class Context:
    def __init__(self, request):
        self.aws_request_id = request

    def get_remaining_time_in_millis(self):
        return o["timeout"]


endpoint = None
if o["parameter"]:
    endpoint = {"ssm": {"parameter": o["parameter"]}}
elif o["bucket"]:
    endpoint = {"s3": {"bucket": o["bucket"], "key": o["key"]}}
elif o["url"]:
    endpoint = {"url": o["url"]}
home = postern.Postern(
    o["names"], aws={"audience": o["audience"]} if o["audience"] else None,
    signature={"key_id": o["keyId"], "secret": o["secret"]} if o["keyId"] else None, api_key=o["apiKey"] or None,
    endpoint=endpoint, relay=o["relay"] or None, address=o["address"] or None, ca_file=o["ca"], lookup=lookup,
    timeout=o["timeout"] / 1000, connect_timeout=o["connect"] / 1000)
session = None
if o["adapter"] == "requests":
    import requests
    session = requests.Session()
    session.trust_env = False
    session.mount("https://", postern.requests_adapter(home))
for line in sys.stdin:
    c = json.loads(line)
    dns = c["dns"] or dns
    if c["later"]:
        time.time = lambda now=time.time, by=c["later"]: now() + by
    body, headers = c["body"].encode() or None, {"Content-Type": "text/plain"} if c["body"] else {}
    try:
        if session:
            res = session.request(c["method"], "https://" + o["names"][0] + c["path"], data=body, headers=headers)
            out = {"status": res.status_code, "body": res.text}
        elif o["adapter"] == "urllib3":
            pool = postern.urllib3_pool(home)
            res = pool.request(c["method"], c["path"], body=body, headers={**pool.headers, **headers})
            out = {"status": res.status, "body": res.data.decode()}
        else:
            res = home.call(c["method"], c["path"], body=body, headers=headers, context=Context(c["request"]) if c["request"] else None)
            out = {"status": res.status, "body": res.text()}
    except Exception as err:
        out = {"error": "%s: %s" % (type(err).__name__, err)}
    print(json.dumps(out), flush=True)
home.close()
