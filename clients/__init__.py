"""Who speaks to Dialdesk: a reference phone and a reference desk, which are also the tests' and the load's."""
