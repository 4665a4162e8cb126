"""The same park as a competent team would first write it: clear, correct, one request at a time.

It keeps the same documents under the same indexes and validators, with the same write concern and the same
uvicorn options as Callboard, and gives the same guarantees: a transaction per shift with an outbox row in it,
and a ledger that counts an event once. What differs is what step by step made Callboard fast: requests do
not share database round trips, events are published and consumed one by one, and routes and hop are the
frameworks' own. It writes no access log and no metrics, which Callboard does.
"""
