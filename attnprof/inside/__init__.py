"""Recording a part of a program from inside it: ``attnprof.record`` and the notebook's ``%%attnprof``."""
