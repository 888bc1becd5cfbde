# SPDX-License-Identifier: Apache-2.0
"""Runs the checks of a module with the client classes of the package e2b, in its own virtual environment:

    sdk.py URL MODULE      every function check_… of the module, with a Sandbox for the agent behind URL

A check that is a coroutine gets an AsyncSandbox. One line for each: "ok NAME" or "not ok NAME: why"; then "end".
"""
import asyncio
import importlib
import inspect
import os
import sys
import traceback

from packaging.version import Version

from e2b import AsyncSandbox, ConnectionConfig, Sandbox

sys.dont_write_bytecode = True
VERSION = "0.6.4"       # of the protocol that the client is to speak


def options(url):
    return {"sandbox_id": "agent", "sandbox_domain": None, "envd_version": Version(VERSION), "envd_access_token": None,
            "traffic_access_token": None, "connection_config": ConnectionConfig(api_key="none", sandbox_url=url)}


def main():
    url, name = sys.argv[1:]
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    module = importlib.import_module(name)

    async def run_async(check):
        return await check(AsyncSandbox(**options(url)))
    for name, check in vars(module).items():
        if not name.startswith("check_"):
            continue
        try:
            if inspect.iscoroutinefunction(check):
                asyncio.run(run_async(check))
            else:
                check(Sandbox(**options(url)))
            print(f"ok {name}", flush=True)
        except Exception as e:      # a check that failed; the others still run
            where = [f for f in traceback.extract_tb(e.__traceback__) if f.filename == module.__file__]
            print(f"not ok {name}: {type(e).__name__}: {e}".replace("\n", " ") + (f" [line {where[-1].lineno}]" if where else ""), flush=True)


if __name__ == "__main__":
    main()
    print("end", flush=True)
    os._exit(0)         # the package's own threads may crash while an interpreter ends; that says nothing of the agent
