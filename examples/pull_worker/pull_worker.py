"""A worker for Stem's pull API, with nothing but Python's standard library.

    STEM_API_URL=http://127.0.0.1:8080 python3 pull_worker.py
"""
import json, os, signal, sys, threading, time, traceback, urllib.error, urllib.request, uuid

URL = os.environ.get("STEM_API_URL", "http://127.0.0.1:8080")
TOKEN = os.environ.get("STEM_API_TOKEN")
QUEUES = os.environ.get("STEM_QUEUES", "default").split(",")
LEASE = os.environ.get("STEM_LEASE", "30s")
stopping = threading.Event()


def call(path, body, patience=60):
    """POSTs body, again and again while the API cannot be reached."""
    headers = {"Content-Type": "application/json"}
    if TOKEN:
        headers["Authorization"] = "Bearer " + TOKEN
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), headers)
    deadline = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code < 500 or time.monotonic() > deadline:
                raise RuntimeError(error.read().decode()) from error
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.5)


def resize(args):
    time.sleep(args.get("seconds", 0))
    return {"width": args["width"] // 2, "pid": os.getpid()}


HANDLERS = {"image.resize": resize}


def keep(task, done):
    """Extends the lease at half of it, until the task is done."""
    while not done.wait(task["leaseMs"] / 2000):
        call("/v1/extend", {"tasks": [{"receipt": task["receipt"]}]})


def execute(task):
    done = threading.Event()
    threading.Thread(target=keep, args=(task, done), daemon=True).start()
    try:
        outcome = {"outcome": "succeeded", "result": HANDLERS[task["name"]](task["args"])}
    except Exception as error:
        outcome = {"outcome": "failed", "error": {
            "type": type(error).__name__, "message": str(error), "stack": traceback.format_exc()}}
    finally:
        done.set()
    answer = call("/v1/settle", {"tasks": [{"receipt": task["receipt"], **outcome}]})
    print(task["name"], task["id"], answer["tasks"][0].get("state", "lost"), flush=True)


signal.signal(signal.SIGTERM, lambda *_: stopping.set())
print("pulling from", ", ".join(QUEUES), file=sys.stderr, flush=True)
while not stopping.is_set():
    # With a requestId, a repeat after a lost answer gets the same tasks.
    for task in call("/v1/lease", {"queues": QUEUES, "worker": f"py-{os.getpid()}", "lease": LEASE,
                                   "wait": "5s", "requestId": str(uuid.uuid4())})["tasks"]:
        execute(task)
