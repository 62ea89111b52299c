"""Tests: mirrors of cluster/, data_jobs/ and llm/; journeys/ runs whole commands, faults/ kills and breaks."""
