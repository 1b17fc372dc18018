"""Any finished run at work: evaluated again, exported. The one room that knows all model families."""
