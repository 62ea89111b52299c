"""Tests: mirrors of cluster/, data_jobs/ and llm/; journeys/ run whole commands, faults/ break things."""
