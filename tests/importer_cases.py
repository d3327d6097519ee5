"""A small table of every known cohort, made up, with published columns and codes, and names of images."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """Files of a cohort's folder (name to text), images in it, and columns of the manifest that they must become."""

    files: dict[str, str]
    images: list[str]
    expected: dict[str, list]


def csv(*lines):
    return "\n".join(lines) + "\n"


def tsv(*lines):
    return csv(*lines).replace(",", "\t")


CASES = {
    "abide1": Case(
        {
            "Phenotypic_V1_0b_preprocessed1.csv": csv(
                ",Unnamed: 0,SUB_ID,X,subject,SITE_ID,FILE_ID,DX_GROUP,DSM_IV_TR,AGE_AT_SCAN,SEX,HANDEDNESS_SCORES,FIQ",
                "0,1,59001,1,59001,PITT,no_filename,1,1,17.5,1,Ambi,103",
                "1,2,59002,2,59002,PITT,Pitt_0059002,2,0,23.25,2,-9999,-9999",
            ),
        },
        ["PITT/0059001/session_1/anat_1/mprage.nii.gz", "PITT/0059002/session_1/anat_1/mprage.nii.gz"],
        {
            "participant_id": ["sub-0059001", "sub-0059002"],
            "diagnosis": ["autism", "control"],
            "age": [17.5, 23.25],
            "sex": ["M", "F"],
            "site": ["PITT", "PITT"],
            "FIQ": [103, None],
        },
    ),
    "abide2": Case(
        {
            "ABIDEII_Composite_Phenotypic.csv": csv(
                "SITE_ID,SUB_ID,NDAR_GUID,DX_GROUP,PDD_DSM_IV_TR,AGE_AT_SCAN ,SEX,FIQ",
                "ABIDEII-BNI_1,59003,,1,,44,1,111",
                "ABIDEII-BNI_1,59004,,2,,39,2,",
            ),
        },
        ["ABIDEII-BNI_1/59003/session_1/anat_1/anat.nii.gz", "ABIDEII-BNI_1/59004/session_1/anat_1/anat.nii.gz"],
        {"diagnosis": ["autism", "control"], "age": [44, 39], "sex": ["M", "F"], "FIQ": [111, None]},
    ),
    "adni": Case(
        {
            "ADNIMERGE.csv": csv(
                "RID,COLPROT,PTID,SITE,VISCODE,EXAMDATE,DX_bl,AGE,PTGENDER,ICV,DX,Years_bl",
                "9001,ADNI1,099_S_9001,2,bl,2006-04-18,CN,80.5,Male,1700000,CN,0",
                "9001,ADNI1,099_S_9001,2,m06,2006-11-02,CN,80.5,Male,,MCI,0.5",
                "9002,ADNI2,099_S_9002,2,m120,2016-05-02,CN,70.25,Female,1650000,Dementia,10",
            ),
        },
        [
            "sub-ADNI099S9001/ses-M000/anat/sub-ADNI099S9001_ses-M000_T1w.nii.gz",
            "sub-ADNI099S9001/ses-M006/anat/sub-ADNI099S9001_ses-M006_T1w.nii.gz",
            "sub-ADNI099S9002/ses-M120/anat/sub-ADNI099S9002_ses-M120_T1w.nii.gz",
        ],
        {
            "session_id": ["ses-M000", "ses-M006", "ses-M120"],
            "diagnosis": ["control", "MCI", "dementia"],
            "age": [80.5, 81, 80.25],
            "sex": ["M", "M", "F"],
            "site": ["2", "2", "2"],
            "tiv": [1700, None, 1650],
        },
    ),
    "bsnip": Case(
        {
            "ndar_subject01.txt": tsv(
                "collection_id,subjectkey,src_subject_id,interview_date,interview_age,sex,phenotype,site",
                "collection_id,GUID,Subject ID,Date,Age in months,Sex of the subject,Phenotype,Site",
                "2274,NDAR_A,S0001,01/01/2010,426,F,a disorder,Hartford",
                "2274,NDAR_B,S0002,01/01/2010,360,M,no disorder,Boston",
            ),
        },
        ["sub-S0001/anat/sub-S0001_T1w.nii.gz", "sub-S0002/anat/sub-S0002_T1w.nii.gz"],
        {
            "diagnosis": ["a disorder", "no disorder"],
            "age": [35.5, 30],
            "sex": ["F", "M"],
            "site": ["Hartford", "Boston"],
        },
    ),
    "camcan": Case(
        {
            "participants.tsv": tsv("participant_id,age,gender_code", "sub-CC999001,24,1", "sub-CC999002,18,2"),
        },
        ["sub-CC999001/anat/sub-CC999001_T1w.nii.gz", "sub-CC999002/anat/sub-CC999002_T1w.nii.gz"],
        {"diagnosis": ["control", "control"], "age": [24, 18], "sex": ["M", "F"]},
    ),
    "cobre": Case(
        {
            "COBRE_phenotypic_data.csv": csv(
                ",Current Age,Gender,Handedness,Subject Type,Diagnosis",
                "49001,22,Female,Right,Patient,295.70 depressed type",
                "49002,26,Male,Left,Control,None",
                "49003,Disenrolled,Disenrolled,Disenrolled,Disenrolled,Disenrolled",
            ),
        },
        [
            "COBRE/0049001/session_1/anat_1/mprage.nii.gz",
            "COBRE/0049002/session_1/anat_1/mprage.nii.gz",
            "COBRE/0049003/session_1/anat_1/mprage.nii.gz",
        ],
        {
            "diagnosis": ["schizophrenia", "control", None],
            "age": [22, 26, None],
            "sex": ["F", "M", None],
            "dsm_code": ["295.70 depressed type", None, None],
        },
    ),
    "ds000030": Case(
        {
            "participants.tsv": tsv(
                "participant_id,diagnosis,age,gender,T1w,ScannerSerialNumber",
                "sub-10159,CONTROL,30,F,1,35343.0",
                "sub-50004,SCHZ,38,F,1,35426.0",
            ),
        },
        ["sub-10159/anat/sub-10159_T1w.nii.gz", "sub-50004/anat/sub-50004_T1w.nii.gz"],
        {"diagnosis": ["control", "schizophrenia"], "scanner": ["35343", "35426"], "sex": ["F", "F"]},
    ),
    "ds002748": Case(
        {
            "participants.tsv": tsv(
                "participant_id,age,gender,group,MADRS", "sub-01,39,m,depr,n/a", "sub-52,31,f,control,0"
            ),
        },
        ["sub-01/anat/sub-01_T1w.nii.gz", "sub-52/anat/sub-52_T1w.nii.gz"],
        {"diagnosis": ["depression", "control"], "sex": ["M", "F"], "MADRS": [None, 0]},
    ),
    "hcp": Case(
        {
            "unrestricted_someone_1_2_2024.csv": csv(
                "Subject,Release,Acquisition,Gender,Age,FS_IntraCranial_Vol",
                "900001,S900,Q06,M,22-25,1710000",
                "900002,S900,Q11,F,26-30,",
            ),
            "RESTRICTED_someone_1_2_2024.csv": csv(
                "Subject,Age_in_Yrs,ZygositySR,Family_ID", "900001,24,MZ,1_2", "900002,27,NotMZ,3_4"
            ),
        },
        ["900001/T1w/T1w_acpc_dc_restore.nii.gz", "900002/T1w/T1w_acpc_dc_restore.nii.gz"],
        {
            "diagnosis": ["control", "control"],
            "age": [24, 27],
            "age_range": ["22-25", "26-30"],
            "sex": ["M", "F"],
            "family_id": ["1_2", "3_4"],
            "tiv": [1710, None],
        },
    ),
    "ixi": Case(
        {
            "IXI.csv": csv(
                'IXI_ID,"SEX_ID (1=m, 2=f)",HEIGHT,WEIGHT,ETHNIC_ID,DOB,DATE_AVAILABLE,STUDY_DATE,AGE',
                "7,2,170,60,1,1970-02-22,1,2005-11-18,41.5",
                "907,1,180,80,1,1970-02-22,1,2005-11-18,",
            ),
        },
        ["IXI007-Guys-9001-T1.nii.gz", "IXI907-HH-9002-T1.nii.gz", "IXI907-HH-9002-T2.nii.gz"],
        {
            "participant_id": ["sub-IXI007", "sub-IXI907"],
            "diagnosis": ["control", "control"],
            "age": [41.5, None],
            "sex": ["F", "M"],
            "site": ["Guys", "HH"],
        },
    ),
    "mcic": Case(
        {
            "participants.tsv": tsv(
                "participant_id,dx", "sub-A99999901,No_Known_Disorder", "sub-A99999902,Schizophrenia_Strict"
            ),
        },
        [
            "sub-A99999901/ses-1/anat/sub-A99999901_ses-1_T1w.nii",
            "sub-A99999902/ses-1/anat/sub-A99999902_ses-1_T1w.nii",
        ],
        {"diagnosis": ["control", "schizophrenia"]},
    ),
    "oasis1": Case(
        {
            "oasis_cross-sectional.csv": csv(
                "ID,M/F,Hand,Age,Educ,SES,MMSE,CDR,eTIV,nWBV,ASF,Delay",
                "OAS1_9001_MR1,F,R,70,3,2,30,0,1400,0.75,1.25,N/A",
                "OAS1_9003_MR1,F,R,71,3,2,25,0.5,1500,0.7,1.2,N/A",
                "OAS1_9061_MR1,F,R,20,,,,,1300,0.85,1.3,N/A",
                "OAS1_9061_MR2,F,R,20,,,,,1301,0.85,1.3,40",
            ),
        },
        [
            "OAS1_9001_MR1/mwrc1OAS1_9001_MR1_mpr_anon_fslswapdim_bet.nii.gz",
            "OAS1_9003_MR1/mwrc1OAS1_9003_MR1_mpr_anon_fslswapdim_bet.nii.gz",
            "OAS1_9061_MR1/mwrc1OAS1_9061_MR1_mpr_anon_fslswapdim_bet.nii.gz",
        ],
        {
            "participant_id": ["sub-OASIS19001", "sub-OASIS19003", "sub-OASIS19061"],
            "diagnosis": ["control", "dementia", None],
            "cdr": [0, 0.5, None],
            "age": [70, 71, 20],
            "sex": ["F", "F", "F"],
            "tiv": [1400, 1500, 1300],
        },
    ),
    "oasis3": Case(
        {
            "OASIS3_UDSb4_cdr.csv": csv(
                "OASISID,OASIS_session_label,days_to_visit,age at visit,MMSE,CDRTOT,CDRSUM,dx1",
                "OAS39001,OAS39001_UDSb4_d0000,0000,65.1,28,0,0,Cognitively normal",
                "OAS39001,OAS39001_UDSb4_d0339,0339,66.0,28,0.5,1,uncertain dementia",
                "OAS39002,OAS39002_UDSb4_d0000,0000,67.2,20,1,6,AD Dementia",
            ),
            "OASIS3_demographics.csv": csv(
                "OASISID,AgeatEntry,GENDER,EDUC,HAND,APOE", "OAS39001,65.1,2,12,R,23", "OAS39002,67.2,1,18,R,34"
            ),
            "OASIS3_MR_sessions.csv": csv(
                "Label,Subject,M/F,Age,Scanner",
                "OAS39001_MR_d0129,OAS39001,F,65.0,3.0T",
                "OAS39002_MR_d0371,OAS39002,M,68.2,1.5T",
            ),
        },
        [
            "OAS39001_MR_d0129/anat2/sub-OAS39001_ses-d0129_run-01_T1w.nii.gz",
            "OAS39002_MR_d0371/anat1/sub-OAS39002_ses-d0371_T1w.nii.gz",
        ],
        {
            "participant_id": ["sub-OAS39001", "sub-OAS39002"],
            "session_id": ["ses-d0129", "ses-d0371"],
            "run": ["01", None],
            "diagnosis": ["control", "dementia"],
            "cdr": [0, 1],
            "age": [65, 68.2],
            "sex": ["F", "M"],
            "scanner": ["3.0T", "1.5T"],
        },
    ),
    "openbhb": Case(
        {
            "participants.tsv": tsv(
                "participant_id,study,sex,age,site,diagnosis,tiv,csfv,gmv,wmv,siteXacq,split",
                "999000000001,2,male,24.5,3,control,1500.2,300,700,500.2,4,train",
                "999000000002,2,female,30,3,control,1400,300,700,400,4,val",
            ),
        },
        [
            "sub-999000000001/ses-1/sub-999000000001_preproc-cat12vbm_desc-gm_T1w.nii.gz",
            "sub-999000000001/ses-1/sub-999000000001_preproc-quasiraw_T1w.nii.gz",
            "sub-999000000002/ses-1/sub-999000000002_preproc-cat12vbm_desc-gm_T1w.nii.gz",
            "sub-999000000002/ses-1/sub-999000000002_preproc-quasiraw_T1w.nii.gz",
        ],
        {
            "diagnosis": ["control", "control"],
            "age": [24.5, 30],
            "sex": ["M", "F"],
            "tiv": [1500.2, 1400],
            "openbhb_split": ["train", "val"],
        },
    ),
    "ppmi": Case(
        {
            "Participant_Status_19Oct2023.csv": csv(
                "PATNO,COHORT,COHORT_DEFINITION,ENROLL_STATUS,ENROLL_AGE",
                "99001,2,Healthy Control,Enrolled,69.1",
                "99002,1,Parkinson's Disease,Enrolled,65.2",
            ),
            "Demographics.csv": csv("REC_ID,PATNO,EVENT_ID,SEX,HANDED", "1,99001,TRANS,0,1", "2,99002,TRANS,1,2"),
            "Age_at_visit.csv": csv("PATNO,EVENT_ID,AGE_AT_VISIT", "99001,BL,69.2", "99001,V04,70.2", "99002,BL,65.3"),
        },
        [
            "sub-99001/ses-BL/anat/sub-99001_ses-BL_T1w.nii.gz",
            "sub-99001/ses-V04/anat/sub-99001_ses-V04_T1w.nii.gz",
            "sub-99002/ses-BL/anat/sub-99002_ses-BL_T1w.nii.gz",
        ],
        {"diagnosis": ["control", "control", "parkinson"], "age": [69.2, 70.2, 65.3], "sex": ["F", "F", "M"]},
    ),
    "schizconnect": Case(
        {
            "schizconnect_metaData_1829.csv": csv(
                "study,subjectid,age,sex,dx,field_strength,img_date,datauri,maker,imaging_protocol_site",
                "COBRE,A99999901,27,male,No_Known_Disorder,3,1/1/11,a,Siemens,MRN",
                "COBRE,A99999901,27,male,No_Known_Disorder,3,1/1/11,b,Siemens,MRN",
                "COBRE,A99999902,40,female,Schizophrenia_Strict,3,1/1/11,c,Siemens,MRN",
            ),
        },
        [
            "sub-A99999901/ses-20110101/anat/sub-A99999901_ses-20110101_acq-mprage_run-01_T1w.nii.gz",
            "sub-A99999902/ses-20110101/anat/sub-A99999902_ses-20110101_acq-mprage_run-01_T1w.nii.gz",
        ],
        {
            "diagnosis": ["control", "schizophrenia"],
            "age": [27, 40],
            "sex": ["M", "F"],
            "site": ["MRN", "MRN"],
            "study": ["COBRE", "COBRE"],
        },
    ),
    "ukbiobank": Case(
        {
            "ukb12345.csv": csv(
                "eid,31-0.0,54-2.0,21003-0.0,21003-2.0,26521-2.0,diagnosis",
                "1000011,0,11025,55,63,1500000,none",
                "1000027,1,11027,50,59,1600000,F32",
            ),
        },
        ["1000011_20252_2_0/T1/T1_brain_to_MNI.nii.gz", "1000027_20252_2_0/T1/T1_brain_to_MNI.nii.gz"],
        {
            "session_id": ["ses-2", "ses-2"],
            "diagnosis": ["none", "F32"],
            "age": [63, 59],
            "sex": ["F", "M"],
            "site": ["Cheadle", "Newcastle"],
            "tiv": [1500, 1600],
        },
    ),
}
