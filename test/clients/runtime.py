"""A Lambda runtime on the documented Runtime API: usage: runtime.py, with
_HANDLER, LAMBDA_TASK_ROOT and AWS_LAMBDA_RUNTIME_API as in Lambda."""
import http.client
import importlib
import json
import os
import sys
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.environ["LAMBDA_TASK_ROOT"])
module, _, name = os.environ["_HANDLER"].rpartition(".")
handler = getattr(importlib.import_module(module), name)


class Context:
    def __init__(self, headers):
        self.aws_request_id = headers["Lambda-Runtime-Aws-Request-Id"]
        self.deadline = int(headers["Lambda-Runtime-Deadline-Ms"])

    def get_remaining_time_in_millis(self):
        return self.deadline - time.time() * 1000


while True:
    api = http.client.HTTPConnection(os.environ["AWS_LAMBDA_RUNTIME_API"])
    try:
        api.request("GET", "/2018-06-01/runtime/invocation/next")
        res = api.getresponse()
        event, context = json.loads(res.read()), Context(res.headers)
    except (OSError, http.client.HTTPException, ValueError):
        break  # the environment is taken down
    try:
        kind, answer = "response", handler(event, context)
    except Exception as err:
        kind, answer = "error", {"errorType": type(err).__name__, "errorMessage": str(err)}
    api.request("POST", "/2018-06-01/runtime/invocation/%s/%s" % (context.aws_request_id, kind), json.dumps(answer))
    api.getresponse().read()
