"""Many methods on one pair under one budget: which would teach this student best?"""
